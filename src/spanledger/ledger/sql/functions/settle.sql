-- These calls succeeded. Per item: owned is false where a newer attempt owns the call, or a person said what came of
-- it; the outcome is then recorded as late and what it cost counts as spent, because money that left is money that
-- left. known is false where there is no such call, so that nothing was recorded. The attempts that own their calls are
-- written together, and so is what they are booked on. One that comes alone, of a call that took nothing from a budget
-- and that nobody waits for, is one statement and out: hence no variable has a value before. Plans are generic, as in
-- `begin`.
create or replace function spanledger_v1.settle(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
set plan_cache_mode = force_generic_plan
as $$
declare
    v_count integer;
    v_answers jsonb[];
    v_owned integer[];
    v_costs boolean;
    v_bookings jsonb[];
    v_accounts bigint[];
    v_amounts bigint[];
    v_call record;
    v_spent record;
    v_now timestamptz;
    v_i integer;
begin
    if session_user <> current_user then
        perform spanledger.require(p_tenant, 'settle');
    end if;
    if jsonb_array_length(p_items) = 1 then
        update spanledger.call c set
            state = 'succeeded', result = case when c.erased_at is null then e.item ->> 'result' end,
            result_kept = c.erased_at is null and coalesce((e.item ->> 'result_kept')::boolean, false),
            cost = e.item -> 'cost', usage = e.item -> 'usage', held = '{}', lease_until = null, probe_until = null,
            ended_at = clock_timestamp()
            from (select p_items -> 0 as item offset 0) e
            where c.tenant = p_tenant and c.key = decode(e.item ->> 'key', 'hex')
                and c.attempt_id = (e.item ->> 'attempt_id')::uuid and c.state in ('in_flight', 'unknown')
                and c.accounts = '{}' and c.waited_until is null and not e.item ? 'ran';
        if found then
            return '[{"owned": true}]';
        end if;
    end if;
    v_count := jsonb_array_length(p_items);
    v_answers := array_fill('{"owned": true}'::jsonb, array[v_count]);
    -- Hardly a tool says what it has cost; where none does, what was reserved is spent, and is summed up here.
    v_costs := p_items @? '$[*] ? (exists(@.cost.*) || exists(@.ran))';
    if v_count > 1 then
        -- Also those that will turn out to be late: later, when calls of greater keys are locked, is out of order.
        perform spanledger.lock_calls(p_tenant, p_items);
    end if;
    v_now := clock_timestamp();
    for v_call in
        update spanledger.call c set
            state = 'succeeded', result = case when c.erased_at is null then e.item ->> 'result' end,
            result_kept = c.erased_at is null and coalesce((e.item ->> 'result_kept')::boolean, false),
            cost = e.item -> 'cost', usage = e.item -> 'usage', held = '{}', lease_until = null, probe_until = null, ended_at = v_now
            from jsonb_array_elements(p_items) with ordinality e (item, i)
            -- So are all, and to the planner it is one: each is looked up by its key, however small the table is.
            where e.i between 1 and v_count
                and c.tenant = p_tenant and c.key = decode(e.item ->> 'key', 'hex')
                and c.attempt_id = (e.item ->> 'attempt_id')::uuid and c.state in ('in_flight', 'unknown')
            returning e.i, e.item, c.accounts, c.reserved, c.units, c.started_at, c.waited_until
    loop
        v_owned := v_owned || v_call.i::integer;
        if v_call.accounts <> '{}' and not v_costs then
            v_accounts := v_accounts || v_call.accounts;
            v_amounts := v_amounts || v_call.reserved;
        elsif v_call.accounts <> '{}' then
            v_bookings := v_bookings || jsonb_build_object(
                'key', v_call.item -> 'key', 'accounts', v_call.accounts, 'amounts', v_call.reserved, 'units', v_call.units,
                'cost', coalesce(v_call.item -> 'cost', '{}'), 'spend', true, 'release', true, 'at', v_call.started_at);
        end if;
        if v_call.waited_until > v_now then
            perform pg_notify('spanledger', v_call.item ->> 'key');
        end if;
    end loop;
    if cardinality(v_owned) is distinct from v_count then
        -- They may be booked on other accounts than their calls show.
        perform spanledger.lock_late(p_tenant, p_items, v_owned, v_now);
    end if;
    if v_bookings is not null then
        perform spanledger.book_many(p_tenant, to_jsonb(v_bookings));
    elsif v_accounts is not null then
        for v_spent in select u.id, sum(u.amount)::bigint as amount from unnest(v_accounts, v_amounts) u (id, amount)
            group by u.id order by u.id
        loop
            update spanledger.account a set held = a.held - v_spent.amount, spent = a.spent + least(v_spent.amount, 4000000000000000000 - a.spent)
                where a.id = v_spent.id;
        end loop;
    end if;
    if cardinality(v_owned) is distinct from v_count then
        for v_i in select i from generate_series(1, v_count) i where i <> all (coalesce(v_owned, '{}'))
            order by p_items -> (i - 1) ->> 'key', i
        loop
            v_answers[v_i] := spanledger.settle_late(p_tenant, p_items -> (v_i - 1), v_now);
        end loop;
    end if;
    if v_costs then
        perform spanledger.record_unguarded(p_tenant, p_items, v_now);
    end if;
    return to_jsonb(v_answers);
end
$$;
