-- May these agents do this for these actors, as the grants stand? The answers are what `authority` says, and are kept in
-- history with the workflow they were asked in. An item is {id, permission, reserve, agent, actor, workflow_id, trace_id,
-- span_id}, with `delegation` where they act under one. Asked again with the same id, because the answer was lost, it is
-- kept once.
drop function if exists spanledger_v1.authorize(text, jsonb);
create or replace function spanledger_v1.authorize(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_answers jsonb := '[]';
    v_key bytea;
    v_item jsonb;
    v_said jsonb;
begin
    perform spanledger.require(p_tenant, 'authorize');
    for v_item in select jsonb_array_elements(p_items) loop
        -- A key of its own, by which history finds it.
        v_key := decode(replace(v_item ->> 'id', '-', ''), 'hex');
        select h.detail -> 'said' into v_said from spanledger.history h where h.tenant = p_tenant and h.key = v_key;
        if not found then
            v_said := coalesce(
                spanledger.delegation_refusal(p_tenant, v_item, clock_timestamp()) || jsonb_build_object(
                    'permission', v_item -> 'permission'),
                spanledger.authority(p_tenant, v_item ->> 'permission', v_item, clock_timestamp()));
            insert into spanledger.history (tenant, key, at, event, attempt, attempt_id, detail)
                values (p_tenant, v_key, clock_timestamp(),
                    case when v_said ? 'reason' then 'not_authorized' else 'authorized' end, 0, (v_item ->> 'id')::uuid,
                    jsonb_strip_nulls(v_item - '{id,delegation}'::text[]) || jsonb_build_object('said', v_said));
        end if;
        v_answers := v_answers || jsonb_build_array(v_said);
    end loop;
    return v_answers;
end
$$;
