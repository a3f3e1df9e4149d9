-- An attempt succeeded that does not run any more, as far as the ledger knows.
create or replace function spanledger.settle_late(p_tenant text, p_item jsonb, p_now timestamptz)
returns jsonb
language plpgsql volatile
as $$
declare
    v_call spanledger.call;
begin
    select * into v_call from spanledger.call c
        where c.tenant = p_tenant and c.key = decode(p_item ->> 'key', 'hex') for update;
    if v_call.attempt_id = (p_item ->> 'attempt_id')::uuid and v_call.state = 'succeeded' then
        return '{"owned": true}';  -- asked again: the answer was lost
    end if;
    perform spanledger.record_late(p_tenant, p_item, v_call, 'late_success', p_now);
    if v_call.attempt_id is distinct from (p_item ->> 'attempt_id')::uuid
        or v_call.state not in ('failed', 'reopened', 'released', 'approved', 'cancelled') then
        return '{"owned": false}';
    end if;
    -- It was thought to have failed, perhaps by a person, and nobody has run it since: it must not run again.
    if v_call.held <> '{}' then
        perform spanledger.book(v_call, v_call.held, null, true, false);
    end if;
    update spanledger.call c set
        state = 'succeeded', result = p_item ->> 'result', error = null,
        result_kept = coalesce((p_item ->> 'result_kept')::boolean, false),
        cost = p_item -> 'cost', held = '{}', ended_at = p_now
        where c.tenant = v_call.tenant and c.key = v_call.key;
    perform spanledger.wake(v_call, p_now);
    return '{"owned": true}';
end
$$;
