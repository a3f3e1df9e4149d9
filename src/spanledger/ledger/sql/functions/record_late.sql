-- The outcome of an attempt that no longer owns its call: kept in history, once; a success is booked as spent.
create or replace function spanledger.record_late(
    p_tenant text, p_item jsonb, p_call spanledger.call, p_event text, p_now timestamptz)
returns void
language plpgsql volatile
as $$
declare
    v_key bytea := decode(p_item ->> 'key', 'hex');
    v_attempt uuid := (p_item ->> 'attempt_id')::uuid;
    v_past jsonb;
begin
    if p_call.tenant is null or exists (
        select from spanledger.history h
        where h.tenant = p_tenant and h.key = v_key and h.attempt_id = v_attempt and h.event = p_event) then
        return;
    end if;
    select h.detail into v_past from spanledger.history h
        where h.tenant = p_tenant and h.key = v_key and h.attempt_id = v_attempt
            and h.event in ('superseded', 'resolved')
        order by h.id desc limit 1;
    insert into spanledger.history (tenant, key, at, event, attempt, attempt_id, detail)
        values (p_tenant, v_key, p_now, p_event, p_call.attempt, v_attempt,
            jsonb_strip_nulls(jsonb_build_object(
                'result', p_item ->> 'result', 'error', p_item -> 'error', 'cost', p_item -> 'cost')));
    if p_event = 'late_success' and v_past ? 'held' then
        -- Its reservation was released or passed on, so that nothing is taken off here.
        update spanledger.account a set spent = a.spent + case
                when b.unit <> 'calls' and p_item -> 'cost' ? b.unit then (p_item -> 'cost' ->> b.unit)::bigint
                else h.amount end
            from rows from (jsonb_array_elements_text(v_past -> 'accounts'), jsonb_array_elements_text(v_past -> 'held'))
                h0 (id, held)
            cross join lateral (select h0.id::bigint as id, h0.held::bigint as amount) h, spanledger.budget b
            where a.id = h.id and b.tenant = a.tenant and b.name = a.budget
                and v_past ->> 'state' is distinct from 'succeeded';
    end if;
end
$$;
