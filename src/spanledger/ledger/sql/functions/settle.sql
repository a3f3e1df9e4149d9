-- These calls succeeded. Per item: owned is false where a newer attempt owns the call, or a person said what came of
-- it; the outcome is then recorded as late and what it cost counts as spent, because money that left is money that
-- left. What the attempts that own their calls are booked on is written together. Plans are generic, as in `begin`.
create or replace function spanledger_v1.settle(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
set plan_cache_mode = force_generic_plan
as $$
declare
    v_count integer := jsonb_array_length(p_items);
    v_answers jsonb[] := array_fill('{"owned": true}'::jsonb, array[v_count]);
    v_late integer[] := '{}';
    v_bookings jsonb[] := '{}';
    v_now timestamptz;
    v_item jsonb;
    v_call record;
    v_i integer;
begin
    if session_user <> current_user then
        perform spanledger.require(p_tenant, 'settle');
    end if;
    v_now := clock_timestamp();
    -- In the order of keys, which is the order of locks.
    for v_i, v_item in select item.i, item.item from jsonb_array_elements(p_items) with ordinality item (item, i)
        order by item.item ->> 'key', item.i
    loop
        update spanledger.call c set
            state = 'succeeded', result = case when c.erased_at is null then v_item ->> 'result' end,
            result_kept = c.erased_at is null and coalesce((v_item ->> 'result_kept')::boolean, false), cost = v_item -> 'cost',
            held = '{}', lease_until = null, probe_until = null, ended_at = v_now
            where c.tenant = p_tenant and c.key = decode(v_item ->> 'key', 'hex')
                and c.attempt_id = (v_item ->> 'attempt_id')::uuid and c.state in ('in_flight', 'unknown')
            returning c.accounts, c.reserved, c.units, c.started_at, c.waited_until into v_call;
        if not found then
            -- Locked here and not later, when calls of greater keys are: that would be out of order.
            perform from spanledger.call c where c.tenant = p_tenant and c.key = decode(v_item ->> 'key', 'hex') for update;
            v_late := v_late || v_i;
            continue;
        end if;
        if v_call.accounts <> '{}' then
            v_bookings[cardinality(v_bookings) + 1] := jsonb_build_object(
                'key', v_item -> 'key', 'accounts', v_call.accounts, 'amounts', v_call.reserved, 'units', v_call.units,
                'cost', coalesce(v_item -> 'cost', '{}'), 'spend', true, 'release', true, 'at', v_call.started_at);
        end if;
        if v_call.waited_until > v_now then
            perform pg_notify('spanledger', v_item ->> 'key');
        end if;
    end loop;
    if v_late <> '{}' then
        -- They may be booked on other accounts than their calls show.
        perform spanledger.lock_items(p_tenant, p_items);
    end if;
    if v_bookings <> '{}' then
        perform spanledger.book_many(p_tenant, to_jsonb(v_bookings));
    end if;
    foreach v_i in array v_late loop
        v_answers[v_i] := spanledger.settle_late(p_tenant, p_items -> (v_i - 1), v_now);
    end loop;
    return to_jsonb(v_answers);
end
$$;
