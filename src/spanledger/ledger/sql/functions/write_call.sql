-- Write the row of a call that begins (with what `reserve` found), is refused, or waits for a person. The past of an
-- earlier attempt goes to history first.
create or replace function spanledger.write_call(
    p_tenant text, p_item jsonb, p_call spanledger.call, p_now timestamptz,
    p_state text, p_refusal jsonb, p_found jsonb)
returns void
language plpgsql volatile
as $$
declare
    v_ran integer := case when p_state = 'in_flight' then 1 else 0 end;
    v_ids bigint[] := coalesce((p_found ->> 'ids')::bigint[], '{}');
    v_amounts bigint[] := coalesce((p_found ->> 'amounts')::bigint[], '{}');
    v_units text[] := coalesce((p_found ->> 'units')::text[], '{}');
    v_lease_until timestamptz := case when p_state = 'in_flight'
        then p_now + make_interval(secs => (p_item ->> 'lease_s')::double precision) end;
begin
    if p_call.tenant is null then
        insert into spanledger.call (
            tenant, key, state, attempt, attempts, attempt_id, tool, operation, workflow_id, key_source, fingerprint,
            call_id, agent, actor, rule, rule_version, arguments, refusal, trace_id, span_id, accounts, reserved, held,
            units, lease_until, created_at, started_at, run_id)
        values (
            p_tenant, decode(p_item ->> 'key', 'hex'), p_state, v_ran, v_ran, (p_item ->> 'attempt_id')::uuid,
            p_item ->> 'tool', p_item ->> 'operation', p_item ->> 'workflow_id', p_item ->> 'key_source',
            decode(p_item ->> 'fingerprint', 'hex'), p_item ->> 'call_id', p_item ->> 'agent', p_item ->> 'actor',
            p_item ->> 'rule', p_item ->> 'rule_version', p_item ->> 'arguments', p_refusal,
            p_item ->> 'trace_id', p_item ->> 'span_id',
            v_ids, v_amounts, v_amounts, v_units, v_lease_until, p_now, p_now, (p_item ->> 'run_id')::uuid);
        return;
    end if;
    perform spanledger.spend_told(p_call, p_now);
    insert into spanledger.history (tenant, key, at, event, attempt, attempt_id, detail)
        values (p_tenant, p_call.key, p_now, 'superseded', p_call.attempt, p_call.attempt_id,
            jsonb_strip_nulls(jsonb_build_object(
                'state', p_call.state, 'error', p_call.error, 'refusal', p_call.refusal, 'result', p_call.result,
                'fingerprint', encode(p_call.fingerprint, 'hex'), 'arguments', p_call.arguments, 'cost', p_call.cost,
                'usage', p_call.usage,
                'accounts', p_call.accounts, 'reserved', p_call.reserved, 'units', p_call.units,
                'approval_id', p_call.approval_id, 'grants', p_call.grants, 'delegation', p_call.delegation,
                'rule', p_call.rule, 'rule_version', p_call.rule_version,
                'trace_id', p_call.trace_id, 'span_id', p_call.span_id, 'run_id', p_call.run_id,
                'attempts', p_call.attempts, 'started_at', p_call.started_at, 'ended_at', p_call.ended_at)));
    update spanledger.call c set
        state = p_state, attempt = p_call.attempt + v_ran,
        attempts = v_ran + case p_call.state when 'succeeded' then 0 else p_call.attempts end,
        attempt_id = (p_item ->> 'attempt_id')::uuid, fingerprint = decode(p_item ->> 'fingerprint', 'hex'),
        call_id = p_item ->> 'call_id', agent = p_item ->> 'agent', actor = p_item ->> 'actor',
        rule = p_item ->> 'rule', rule_version = p_item ->> 'rule_version', arguments = p_item ->> 'arguments',
        refusal = p_refusal,
        trace_id = p_item ->> 'trace_id', span_id = p_item ->> 'span_id', run_id = (p_item ->> 'run_id')::uuid,
        accounts = v_ids, reserved = v_amounts, held = v_amounts, units = v_units,
        result = null, result_kept = false, erased_at = null, error = null, cost = null, usage = null, probe_until = null, probe_id = null,
        grants = null, delegation = null,
        lease_until = v_lease_until,
        -- Consent to an earlier generation covers nothing of the next.
        approval_id = case when p_call.state <> 'succeeded' then p_call.approval_id end,
        started_at = p_now, ended_at = null
        where c.tenant = p_call.tenant and c.key = p_call.key;
end
$$;
