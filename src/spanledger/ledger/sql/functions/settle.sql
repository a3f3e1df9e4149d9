-- These calls succeeded. Per item: owned is false where a newer attempt owns the call, or a person said what came of
-- it; the outcome is then recorded as late and what it cost counts as spent, because money that left is money that
-- left.
create or replace function spanledger_v1.settle(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    v_answers jsonb[] := array_fill(null::jsonb, array[jsonb_array_length(p_items)]);
    v_call spanledger.call;
    v_item jsonb;
    v_now timestamptz;
    v_i integer;
begin
    perform spanledger.require(p_tenant, 'settle');
    perform spanledger.lock_items(p_tenant, p_items);
    for v_i, v_item in select item.i, item.item from jsonb_array_elements(p_items) with ordinality item (item, i)
        order by item.item ->> 'key', item.i
    loop
        select * into v_call from spanledger.call c
            where c.tenant = p_tenant and c.key = decode(v_item ->> 'key', 'hex') for update;
        v_now := clock_timestamp();
        if v_call.attempt_id = (v_item ->> 'attempt_id')::uuid and v_call.state in ('in_flight', 'unknown') then
            perform spanledger.book(v_call.accounts, v_call.held, v_item -> 'cost', true, true);
            update spanledger.call c set
                state = 'succeeded', result = v_item ->> 'result',
                result_kept = coalesce((v_item ->> 'result_kept')::boolean, false),
                cost = v_item -> 'cost', held = '{}', lease_until = null, probe_until = null, ended_at = v_now
                where c.tenant = v_call.tenant and c.key = v_call.key;
            v_answers[v_i] := '{"owned": true}';
        elsif v_call.attempt_id = (v_item ->> 'attempt_id')::uuid and v_call.state = 'succeeded' then
            v_answers[v_i] := '{"owned": true}';  -- asked again: the answer was lost
        elsif v_call.attempt_id = (v_item ->> 'attempt_id')::uuid
            and v_call.state in ('failed', 'reopened', 'released', 'cancelled') then
            -- It was thought to have failed, perhaps by a person, and nobody has run it since: it must not run again.
            perform spanledger.record_late(p_tenant, v_item, v_call, 'late_success', v_now);
            if v_call.held <> '{}' then
                perform spanledger.book(v_call.accounts, v_call.held, '{}', true, false);
            end if;
            update spanledger.call c set
                state = 'succeeded', result = v_item ->> 'result', error = null,
                result_kept = coalesce((v_item ->> 'result_kept')::boolean, false),
                cost = v_item -> 'cost', held = '{}', ended_at = v_now
                where c.tenant = v_call.tenant and c.key = v_call.key;
            v_answers[v_i] := '{"owned": true}';
        else
            perform spanledger.record_late(p_tenant, v_item, v_call, 'late_success', v_now);
            v_answers[v_i] := '{"owned": false}';
        end if;
    end loop;
    return to_jsonb(v_answers);
end
$$;
