-- Write calls that begin and were not there. `p_found` is {item: what `reserve` found}, null where nothing restricts
-- them. Returns which were written; one that somebody else has written meanwhile, or that stands twice among them, is
-- not.
create or replace function spanledger.insert_calls(p_tenant text, p_items jsonb, p_fresh integer[], p_found jsonb)
returns integer[]
language plpgsql volatile
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_count integer;
begin
    insert into spanledger.call (
        tenant, key, state, attempt, attempts, attempt_id, tool, operation, workflow_id, key_source, fingerprint,
        call_id, agent, actor, rule, rule_version, arguments, trace_id, span_id, accounts, reserved, held, units,
        lease_until, created_at, started_at, run_id)
    select p_tenant, decode(item ->> 'key', 'hex'), 'in_flight', 1, 1, (item ->> 'attempt_id')::uuid,
        item ->> 'tool', item ->> 'operation', item ->> 'workflow_id', item ->> 'key_source',
        decode(item ->> 'fingerprint', 'hex'), item ->> 'call_id', item ->> 'agent', item ->> 'actor',
        item ->> 'rule', item ->> 'rule_version', item ->> 'arguments', item ->> 'trace_id', item ->> 'span_id',
        coalesce((took ->> 'ids')::bigint[], '{}'), coalesce((took ->> 'amounts')::bigint[], '{}'),
        coalesce((took ->> 'amounts')::bigint[], '{}'), coalesce((took ->> 'units')::text[], '{}'),
        v_now + make_interval(secs => (item ->> 'lease_s')::double precision), v_now, v_now, (item ->> 'run_id')::uuid
    from unnest(p_fresh) f (i) cross join lateral (
        select p_items -> (f.i - 1) as item, p_found -> f.i::text as took offset 0) t
    on conflict (tenant, key) do nothing;
    get diagnostics v_count = row_count;
    if v_count = cardinality(p_fresh) then
        return p_fresh;
    end if;
    return array(select f.i from unnest(p_fresh) f (i) where exists (
        select from spanledger.call c where c.tenant = p_tenant
            and c.key = decode(p_items -> (f.i - 1) ->> 'key', 'hex')
            and c.attempt_id = (p_items -> (f.i - 1) ->> 'attempt_id')::uuid
            -- Its claim may have been given back meanwhile, by a row that says so.
            and c.state = 'in_flight'));
end
$$;
