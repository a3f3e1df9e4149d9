-- These calls succeeded. Per item: owned is false where a newer attempt owns the call, or a person said what came of
-- it; the outcome is then recorded as late and what it cost counts as spent, because money that left is money that
-- left. The attempts that own their calls are written together, and so is what they are booked on. Plans are generic, as
-- in `begin`.
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
    v_owned integer[];
    v_bookings jsonb;
    v_now timestamptz;
    v_i integer;
begin
    if session_user <> current_user then
        perform spanledger.require(p_tenant, 'settle');
    end if;
    if v_count > 1 then
        -- Also those that will turn out to be late: later, when calls of greater keys are locked, is out of order.
        perform spanledger.lock_calls(p_tenant, p_items);
    end if;
    v_now := clock_timestamp();
    with settled as (
        update spanledger.call c set
            state = 'succeeded', result = case when c.erased_at is null then e.item ->> 'result' end,
            result_kept = c.erased_at is null and coalesce((e.item ->> 'result_kept')::boolean, false),
            cost = e.item -> 'cost', held = '{}', lease_until = null, probe_until = null, ended_at = v_now
            from jsonb_array_elements(p_items) with ordinality e (item, i)
            -- So are all, and to the planner it is one: each is looked up by its key, however small the table is.
            where e.i between 1 and v_count
                and c.tenant = p_tenant and c.key = decode(e.item ->> 'key', 'hex')
                and c.attempt_id = (e.item ->> 'attempt_id')::uuid and c.state in ('in_flight', 'unknown')
            returning e.i, e.item, c.accounts, c.reserved, c.units, c.started_at, c.waited_until
    )
    select array_agg(s.i),
        jsonb_agg(jsonb_build_object(
            'key', s.item -> 'key', 'accounts', s.accounts, 'amounts', s.reserved, 'units', s.units,
            'cost', coalesce(s.item -> 'cost', '{}'), 'spend', true, 'release', true, 'at', s.started_at))
            filter (where s.accounts <> '{}'),
        count(pg_notify('spanledger', s.item ->> 'key')) filter (where s.waited_until > v_now)
        into v_owned, v_bookings from settled s;
    if cardinality(v_owned) is distinct from v_count then
        -- They may be booked on other accounts than their calls show.
        perform spanledger.lock_items(p_tenant, p_items);
    end if;
    if v_bookings is not null then
        perform spanledger.book_many(p_tenant, v_bookings);
    end if;
    if cardinality(v_owned) is distinct from v_count then
        for v_i in select i from generate_series(1, v_count) i where i <> all (coalesce(v_owned, '{}'))
            order by p_items -> (i - 1) ->> 'key', i
        loop
            v_answers[v_i] := spanledger.settle_late(p_tenant, p_items -> (v_i - 1), v_now);
        end loop;
    end if;
    return to_jsonb(v_answers);
end
$$;
