-- May these calls run? One answer per item, in order.
--
-- Order of locks, the same in every transaction: claims (advisory, by hash), calls (by key), accounts (by id). Items
-- are decided in the order they came, each as if it were alone. A call is written once: claimed and reserved together,
-- or refused. An item that makes no sense (an id that is no UUID) is an error of the whole statement, which then has
-- done nothing: whoever asked asks again about each item alone.
--
-- In every transaction, PL/pgSQL prepares each expression that it meets anew. So the two ways that nearly all calls
-- take, a replay and a fresh call that nothing restricts, are one statement each.
--
-- Plans are made once for all calls (generic), here and in what this calls: the planner takes one made for the items at
-- hand to be cheaper, and would plan anew at each call. So no statement may leave it to estimates whether a key is
-- looked up.
create or replace function spanledger_v1.begin(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
set plan_cache_mode = force_generic_plan
as $$
declare
    v_answers jsonb[] := array_fill(null::jsonb, array[jsonb_array_length(p_items)]);
    v_calls spanledger.call[];
    v_fresh integer[] := '{}';
    v_open integer[] := '{}';
    v_answer jsonb;
    v_call spanledger.call;
    v_item jsonb;
    v_now timestamptz := clock_timestamp();
    v_i integer;
begin
    if session_user <> current_user then
        perform spanledger.require(p_tenant, 'begin');
    end if;
    -- First without a lock: a replay, and all else that changes nothing, shall cost no write.
    for v_i in 1 .. cardinality(v_answers) loop
        v_item := p_items -> (v_i - 1);
        select case when c.state = 'succeeded' and not v_item ? 'delegation'
                and (c.fingerprint = decode(v_item ->> 'fingerprint', 'hex') or v_item ->> 'on_mismatch' = 'replay')
                and (v_item ->> 'replay_for_s' is null
                    or c.ended_at + make_interval(secs => (v_item ->> 'replay_for_s')::double precision) > v_now)
            then spanledger.answer(c, v_item) || jsonb_build_object(
                'verdict', 'replay', 'result', c.result, 'result_kept', c.result_kept) end
            into v_answer
            from spanledger.call c where c.tenant = p_tenant and c.key = decode(v_item ->> 'key', 'hex');
        if not found then
            v_fresh := v_fresh || v_i;
        elsif v_answer is not null then
            v_answers[v_i] := v_answer;
        else
            select * into v_call from spanledger.call c where c.tenant = p_tenant and c.key = decode(v_item ->> 'key', 'hex');
            v_answers[v_i] := spanledger.judge(v_call, v_item, v_now, false);
            if v_answers[v_i] is null then
                v_open := v_open || v_i;
            end if;
        end if;
    end loop;
    if v_fresh <> '{}' or v_open <> '{}' then
        -- One claim that nobody has takes no statement.
        if cardinality(v_answers) > 1
            or not pg_try_advisory_xact_lock(spanledger.claim_of(p_tenant, p_items -> 0 ->> 'key'))
        then
            perform spanledger.lock_claims(p_tenant, p_items, v_fresh || v_open);
        end if;
        if v_fresh <> '{}' and v_open = '{}'
            and not p_items @? '$[*] ? (exists(@.stopped) || exists(@.approval) || exists(@.permission)
                || exists(@.delegation) || exists(@.alias_of))'
            and not exists (select from spanledger.control c where c.tenant = p_tenant and c.active)
        then
            v_answers := spanledger.claim_fresh(p_tenant, p_items, v_fresh, v_answers);
        end if;
        if array_position(v_answers, null) is not null then
            for v_i in select o.i from unnest(v_fresh || v_open) o (i) where v_answers[o.i] is null
                order by p_items -> (o.i - 1) ->> 'key', o.i
            loop
                select * into v_call from spanledger.call c
                    where c.tenant = p_tenant and c.key = decode(p_items -> (v_i - 1) ->> 'key', 'hex') for update;
                if found then
                    v_answers[v_i] := spanledger.judge(v_call, p_items -> (v_i - 1), clock_timestamp(), true);
                    if v_call.state = 'in_flight' and v_answers[v_i] is null then
                        v_call.state := 'unknown';  -- it has just been found that its lease is over
                    end if;
                    v_calls[v_i] := v_call;
                end if;
            end loop;
            v_answers := spanledger.claim(p_tenant, p_items, v_calls, v_answers);
        end if;
        v_now := clock_timestamp();
    end if;
    v_item := jsonb_build_object('now_s', extract(epoch from v_now));
    for v_i in 1 .. cardinality(v_answers) loop
        v_answers[v_i] := v_answers[v_i] || v_item;
    end loop;
    return to_jsonb(v_answers);
end
$$;
