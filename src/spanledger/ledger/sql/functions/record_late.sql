-- The outcome of an attempt that no longer owns its call: kept in history, once; a success is booked as spent, and what a
-- failure says that it cost, unless its worker has said how it ended. A success that was never admitted is booked on the
-- budgets that cover it.
create or replace function spanledger.record_late(
    p_tenant text, p_item jsonb, p_call spanledger.call, p_event text, p_now timestamptz)
returns void
language plpgsql volatile
as $$
declare
    v_key bytea := decode(p_item ->> 'key', 'hex');
    v_attempt uuid := (p_item ->> 'attempt_id')::uuid;
    v_past jsonb := jsonb_build_object('attempt', p_call.attempt, 'state', p_call.state,
        'accounts', p_call.accounts, 'reserved', p_call.reserved, 'units', p_call.units,
        'started_at', p_call.started_at, 'error', p_call.error);
    v_booked spanledger.call := p_call;
begin
    if p_call.tenant is null or exists (
        select from spanledger.history h
        where h.tenant = p_tenant and h.key = v_key and h.attempt_id = v_attempt
            and (h.event in (p_event, 'late_success') or (h.event = 'unguarded' and p_event <> 'failure_spent')
                or (h.event = 'failure_spent' and p_event = 'late_failure'))) then
        return;
    end if;
    if p_call.attempt_id <> v_attempt then
        select h.detail || jsonb_build_object('attempt', h.attempt) into v_past from spanledger.history h
            where h.tenant = p_tenant and h.key = v_key and h.attempt_id = v_attempt and h.event = 'superseded'
            order by h.id desc limit 1;
    end if;
    if p_event = 'late_failure' and v_past -> 'error' in (p_item -> 'error', (p_item -> 'error') - 'message') then
        return;  -- told again: the answer was lost, and this was recorded while the attempt was current
    end if;
    insert into spanledger.history (tenant, key, at, event, attempt, attempt_id, detail)
        values (p_tenant, v_key, p_now, p_event, coalesce((v_past ->> 'attempt')::integer, 0), v_attempt,
            jsonb_strip_nulls(jsonb_build_object(
                'result', p_item ->> 'result', 'error', p_item -> 'error', 'cost', p_item -> 'cost',
                'usage', p_item -> 'usage')));
    -- Of one that is not remembered it takes who says so: what succeeded, and was pruned, was booked.
    if coalesce(v_past -> 'accounts', '[]') = '[]' and p_event = 'late_success' and (p_item ? 'ran'
        or (v_past is null and p_item -> 'admitted' = 'false') or v_past -> 'attempt' = '0'
        or v_past ->> 'state' not in ('in_flight', 'unknown', 'failed', 'released', 'succeeded')) then
        v_booked := spanledger.booked_as(p_item, p_call, p_now);
        v_past := coalesce(v_past, '{"state": "refused"}') || jsonb_build_object('accounts', v_booked.accounts,
            'units', v_booked.units, 'reserved', v_booked.reserved, 'started_at', p_now);
    end if;
    if v_past ? 'accounts' and (case p_event when 'late_success' then v_past ->> 'state' <> 'succeeded'
        else coalesce(p_item -> 'cost', '{}') <> '{}' and (v_past ->> 'state' in ('unknown', 'reopened', 'cancelled')
            or v_past -> 'error' ->> 'type' in ('lost', 'resolved')) end) then
        -- What it reserved was released or passed on to a newer attempt, so that nothing is taken off here.
        v_booked.units := spanledger.texts(v_past -> 'units');
        v_booked.accounts := spanledger.numbers(v_past -> 'accounts');
        v_booked.started_at := (v_past ->> 'started_at')::timestamptz;
        perform spanledger.book(v_booked, spanledger.numbers(v_past -> 'reserved'),
            p_item -> 'cost', false, p_event = 'late_success');
    end if;
end
$$;
