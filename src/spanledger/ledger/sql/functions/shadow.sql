-- As `begin`, in programs that only look what it would say: what may run begins, and of the rest nothing stays but a
-- line of history, because it runs all the same. One item alone.
create or replace function spanledger_v1.shadow(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    v_item constant jsonb := p_items -> 0;
    v_answers jsonb;
begin
    perform spanledger.require(p_tenant, 'shadow');
    begin
        v_answers := spanledger_v1.begin(p_tenant, p_items);
        if v_answers -> 0 ->> 'verdict' <> 'run' then
            raise exception using errcode = 'SL002';
        end if;
    exception when sqlstate 'SL002' then
        insert into spanledger.history (tenant, key, at, event, attempt, attempt_id, detail)
            select p_tenant, decode(v_item ->> 'key', 'hex'), clock_timestamp(), 'would_have',
                (v_answers -> 0 ->> 'attempt')::integer, (v_item ->> 'attempt_id')::uuid,
                jsonb_strip_nulls(jsonb_build_object(
                    'verdict', v_answers -> 0 ->> 'verdict', 'reason', v_answers -> 0 ->> 'reason',
                    'budget', v_answers -> 0 ->> 'budget', 'permission', v_answers -> 0 ->> 'permission',
                    'switch', v_answers -> 0 ->> 'switch', 'rule', v_item ->> 'rule', 'tool', v_item ->> 'tool',
                    'workflow_id', v_item ->> 'workflow_id', 'agent', v_item ->> 'agent', 'actor', v_item ->> 'actor',
                    'reserve', v_item -> 'reserve', 'trace_id', v_item ->> 'trace_id', 'span_id', v_item ->> 'span_id'))
            -- Who is told what to redact asks again.
            where not v_answers -> 0 ? 'obliges' and not exists (select from spanledger.history h where h.tenant = p_tenant
                and h.key = decode(v_item ->> 'key', 'hex') and h.event = 'would_have'
                and h.attempt_id = (v_item ->> 'attempt_id')::uuid);
    end;
    return v_answers;
end
$$;
