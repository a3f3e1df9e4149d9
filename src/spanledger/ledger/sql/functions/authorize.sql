-- May this agent do this for this actor, as the grants stand? The answer is what `granted` says, and is kept in history
-- with the workflow it was asked in. An item is {id, permission, reserve, agent, actor, workflow_id, trace_id, span_id,
-- context}. Asked again with the same id, because the answer was lost, it is kept once.
create or replace function spanledger_v1.authorize(p_tenant text, p_item jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_said jsonb;
begin
    perform spanledger.require(p_tenant, 'authorize');
    select h.detail -> 'said' into v_said from spanledger.history h where h.tenant = p_tenant and h.key = ''::bytea
        and h.event in ('authorized', 'not_authorized') and h.attempt_id = (p_item ->> 'id')::uuid;
    if not found then
        v_said := spanledger.granted(p_tenant, p_item ->> 'permission', p_item, v_now);
        insert into spanledger.history (tenant, key, at, event, attempt, attempt_id, detail)
            values (p_tenant, ''::bytea, v_now, case when v_said ? 'reason' then 'not_authorized' else 'authorized' end, 0,
                (p_item ->> 'id')::uuid, jsonb_strip_nulls(p_item - 'id') || jsonb_build_object('said', v_said));
    end if;
    return v_said;
end
$$;
