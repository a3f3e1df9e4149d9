-- Pass authority on: to an agent, some permissions, up to an amount and until a moment. An item is {id, proof, agent,
-- actor, to_agent, permissions, max, expires_in_s, reason, workflow_id, trace_id, span_id}, and `delegation` where what is
-- passed on was delegated itself; `proof` is the SHA-256 of what bearers will have to show. The answer is the delegation,
-- or {reason} where it would not be narrower than what it comes from. It ends no later than that. Asked again with the
-- same id, because the answer was lost, it is made once.
create or replace function spanledger_v1.delegate(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    v_answers jsonb := '[]';
    v_now timestamptz;
    v_item jsonb;
    v_made spanledger.delegation;
    v_above spanledger.delegation;
    v_refusal jsonb;
begin
    perform spanledger.require(p_tenant, 'delegate');
    for v_item in select jsonb_array_elements(p_items) loop
        v_now := clock_timestamp();
        select * into v_made from spanledger.delegation d
            where d.tenant = p_tenant and d.id = (v_item ->> 'id')::uuid and d.proof = decode(v_item ->> 'proof', 'hex');
        if found then
            v_answers := v_answers || jsonb_build_array(spanledger.delegation_shown(p_tenant, v_made));
            continue;
        end if;
        select * into v_above from spanledger.chain_of(p_tenant, v_item) d order by cardinality(d.chain) desc limit 1;
        v_refusal := coalesce(spanledger.delegation_refusal(p_tenant, v_item, v_now),
            jsonb_build_object('reason', spanledger.delegation_widens(p_tenant, v_item, v_above, v_now)));
        if v_refusal ->> 'reason' is null then
            v_made := spanledger.write_delegation(p_tenant, v_item, v_above, v_now);
            v_refusal := spanledger.delegation_shown(p_tenant, v_made);
        end if;
        insert into spanledger.history (tenant, key, at, event, attempt, attempt_id, detail)
            values (p_tenant, decode(replace(v_item ->> 'id', '-', ''), 'hex'), v_now,
                case when v_refusal ? 'reason' then 'not_delegated' else 'delegated' end, 0, (v_item ->> 'id')::uuid,
                jsonb_strip_nulls(v_item - 'proof' - 'delegation') || jsonb_build_object(
                    'above', v_above.id, 'reason', coalesce(v_refusal -> 'reason', v_item -> 'reason')));
        v_answers := v_answers || jsonb_build_array(v_refusal);
    end loop;
    return v_answers;
end
$$;
