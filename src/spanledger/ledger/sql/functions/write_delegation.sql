-- Write a delegation that may be. It ends with what it comes from, if not before.
create or replace function spanledger.write_delegation(
    p_tenant text, p_item jsonb, p_above spanledger.delegation, p_now timestamptz)
returns spanledger.delegation
language plpgsql volatile
as $$
declare
    v_id uuid := (p_item ->> 'id')::uuid;
    v_made spanledger.delegation;
begin
    insert into spanledger.delegation (tenant, id, chain, proof, by_agent, to_agent, actor, permissions, unit, max_steps,
            account, reason, workflow_id, trace_id, span_id, created_at, expires_at)
        values (p_tenant, v_id, coalesce(p_above.chain, '{}') || v_id, decode(p_item ->> 'proof', 'hex'),
            coalesce(p_item ->> 'agent', ''), p_item ->> 'to_agent', coalesce(p_above.actor, p_item ->> 'actor'),
            array(select jsonb_array_elements_text(p_item -> 'permissions')),
            p_item #>> '{max,unit}', (p_item #>> '{max,steps}')::bigint,
            case when p_item -> 'max' <> 'null' then
                spanledger.open_pool(p_tenant, v_id, p_item #>> '{max,unit}', (p_item #>> '{max,steps}')::bigint) end,
            p_item ->> 'reason', p_item ->> 'workflow_id', p_item ->> 'trace_id', p_item ->> 'span_id', p_now,
            least(p_above.expires_at, p_now + make_interval(secs => (p_item ->> 'expires_in_s')::double precision)))
        returning * into v_made;
    return v_made;
end
$$;
