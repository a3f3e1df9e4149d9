-- These calls succeeded. Per item: owned is false where a newer attempt owns the call, or a person said what came of
-- it; the outcome is then recorded as late and what it cost counts as spent, because money that left is money that
-- left. The attempts that own their calls, which is nearly all, are written together.
create or replace function spanledger_v1.settle(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    v_count integer := jsonb_array_length(p_items);
    v_answers jsonb[] := array_fill('{"owned": true}'::jsonb, array[v_count]);
    v_settled uuid[];
    v_bookings jsonb;
    v_waited text[];
    v_now timestamptz;
    v_i integer;
begin
    perform spanledger.require(p_tenant, 'settle');
    if v_count > 1 then
        perform spanledger.lock_calls(p_tenant, p_items);
    end if;
    v_now := clock_timestamp();
    with settled as (
        update spanledger.call c set
            state = 'succeeded', result = i.result, result_kept = coalesce(i.result_kept, false), cost = i.cost,
            held = '{}', lease_until = null, probe_until = null, ended_at = v_now
        from jsonb_to_recordset(p_items) i (key text, attempt_id uuid, result text, result_kept boolean, cost jsonb)
        where c.tenant = p_tenant and c.key = decode(i.key, 'hex') and c.attempt_id = i.attempt_id
            and c.state in ('in_flight', 'unknown')
        returning c.key, c.attempt_id, c.accounts, c.reserved, c.cost, c.started_at, c.waited_until
    )
    select array_agg(s.attempt_id),
        jsonb_agg(jsonb_build_object('key', encode(s.key, 'hex'), 'accounts', s.accounts, 'amounts', s.reserved,
            'cost', coalesce(s.cost, '{}'), 'spend', true, 'release', true, 'at', s.started_at))
            filter (where s.accounts <> '{}'),
        array_agg(encode(s.key, 'hex')) filter (where s.waited_until > v_now)
        into v_settled, v_bookings, v_waited
        from settled s;
    if coalesce(array_length(v_settled, 1), 0) < v_count then
        -- Late ones may be booked on other accounts than their calls show.
        perform spanledger.lock_items(p_tenant, p_items);
    end if;
    if v_bookings is not null then
        perform spanledger.book_many(p_tenant, v_bookings);
    end if;
    if v_waited is not null then
        perform pg_notify('spanledger', k) from unnest(v_waited) k;
    end if;
    if coalesce(array_length(v_settled, 1), 0) < v_count then
        for v_i in 1 .. v_count loop
            if not coalesce((p_items -> (v_i - 1) ->> 'attempt_id')::uuid = any (v_settled), false) then
                v_answers[v_i] := spanledger.settle_late(p_tenant, p_items -> (v_i - 1), v_now);
            end if;
        end loop;
    end if;
    return to_jsonb(v_answers);
end
$$;
