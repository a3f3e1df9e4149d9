-- An attempt succeeded that does not run any more, as far as the ledger knows.
create or replace function spanledger.settle_late(p_tenant text, p_item jsonb, p_now timestamptz)
returns jsonb
language plpgsql volatile
as $$
declare
    v_call spanledger.call;
    v_past jsonb;
begin
    select * into v_call from spanledger.call c
        where c.tenant = p_tenant and c.key = decode(p_item ->> 'key', 'hex') for update skip locked;
    if v_call.attempt_id = (p_item ->> 'attempt_id')::uuid and v_call.state = 'succeeded' then
        return '{"owned": true}';  -- asked again: the answer was lost
    end if;
    if spanledger.is_erased(p_tenant, p_item, v_call) then
        p_item := spanledger.without_payload(p_item);
    end if;
    if v_call.tenant is null then
        return '{"owned": false, "known": false}';
    end if;
    if v_call.attempt_id = (p_item ->> 'attempt_id')::uuid and v_call.accounts = '{}' and (p_item ? 'ran'
        or v_call.attempt = 0
        or v_call.state not in ('in_flight', 'unknown', 'failed', 'released', 'succeeded')) then
        v_call := spanledger.booked_as(p_item, v_call, v_call.started_at);  -- it may not have run, and did
    end if;
    perform spanledger.record_late(p_tenant, p_item, v_call, 'late_success', p_now);
    if v_call.attempt_id <> (p_item ->> 'attempt_id')::uuid then
        -- The next attempt may have been refused since, or a person asked about it, with the same arguments, and that has
        -- not begun.
        select p.detail into v_past from (
            select h.detail, h.attempt from spanledger.history h
            where h.tenant = p_tenant and h.key = v_call.key and h.event = 'superseded'
                and h.attempt_id = (p_item ->> 'attempt_id')::uuid
            order by h.id desc limit 1) p
            where p.attempt = v_call.attempt and p.detail ->> 'fingerprint' = encode(v_call.fingerprint, 'hex')
                and p.detail ->> 'state' in (
                    'failed', 'reopened', 'released', 'unknown', 'cancelled', 'refused', 'pending', 'approved');
    end if;
    if v_past is null and (v_call.attempt_id is distinct from (p_item ->> 'attempt_id')::uuid
        or v_call.state not in ('failed', 'reopened', 'released', 'approved', 'cancelled', 'refused', 'pending')) then
        return '{"owned": false}';
    end if;
    -- It was thought to have failed, perhaps by a person, and nobody has run it since: it must not run again.
    if v_call.held <> '{}' then
        perform spanledger.book(v_call, v_call.held, null, true, false);
    end if;
    update spanledger.call c set
        state = 'succeeded', result = p_item ->> 'result', error = null,
        result_kept = coalesce((p_item ->> 'result_kept')::boolean, false),
        cost = p_item -> 'cost', usage = p_item -> 'usage', held = '{}', ended_at = p_now,
        attempt_id = (p_item ->> 'attempt_id')::uuid,
        accounts = case when v_past is null then v_call.accounts else spanledger.numbers(v_past -> 'accounts') end,
        reserved = case when v_past is null then v_call.reserved else spanledger.numbers(v_past -> 'reserved') end,
        units = case when v_past is null then v_call.units else spanledger.texts(v_past -> 'units') end,
        trace_id = coalesce(v_past ->> 'trace_id', c.trace_id), span_id = coalesce(v_past ->> 'span_id', c.span_id)
        where c.tenant = v_call.tenant and c.key = v_call.key;
    -- Consent that was given back was used after all; what nobody has answered, or was asked about the next attempt, needs
    -- no answer any more.
    update spanledger.approval a set
        state = case when v_past is null and a.state = 'approved' then 'consumed' else 'cancelled' end,
        consumed_at = case when v_past is null and a.state = 'approved' then p_now end,
        consumed_by = case when v_past is null and a.state = 'approved' then v_call.attempt_id end
        where a.tenant = p_tenant and a.id = v_call.approval_id and a.state in ('pending', 'approved');
    perform spanledger.wake(v_call, p_now);
    return '{"owned": true}';
end
$$;
