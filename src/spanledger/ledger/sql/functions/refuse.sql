-- Keep a refusal: in the call's row, or beside it where the call has a past that must not be overwritten.
create or replace function spanledger.refuse(
    p_tenant text, p_item jsonb, p_call spanledger.call, p_refusal jsonb, p_now timestamptz)
returns void
language plpgsql volatile
as $$
begin
    if p_call.tenant is null or (p_call.state = 'refused' and p_call.held = '{}') then
        perform spanledger.write_call(p_tenant, p_item, p_call, p_now, 'refused', p_refusal, null);
        return;
    end if;
    insert into spanledger.history (tenant, key, at, event, attempt, attempt_id, detail)
        values (p_tenant, p_call.key, p_now, 'refused', p_call.attempt, (p_item ->> 'attempt_id')::uuid,
            p_refusal || jsonb_strip_nulls(jsonb_build_object('rule', p_item -> 'rule',
                'trace_id', p_item -> 'trace_id', 'span_id', p_item -> 'span_id')));
end
$$;
