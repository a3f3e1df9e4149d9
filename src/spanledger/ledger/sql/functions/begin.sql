-- May these calls run? One answer per item, in order.
--
-- Order of locks, the same in every transaction: claims (advisory, by hash), calls (by key), accounts (by id). Items
-- are decided in the order they came, each as if it were alone. A call is written once: claimed and reserved together,
-- or refused. An item that makes no sense (an id that is no UUID) is an error of the whole statement, which then has
-- done nothing: whoever asked asks again about each item alone.
--
-- In every transaction, PL/pgSQL prepares each expression and each statement that it meets anew. So a replay that comes
-- alone is one statement and out, a fresh call that comes alone and that nothing restricts is three, all items of a
-- batch are looked at in one, and so are fresh calls claimed.
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
    v_count integer := jsonb_array_length(p_items);
    v_answers jsonb[];
    v_calls spanledger.call[];
    v_fresh integer[];
    v_open integer[];
    v_locked boolean;
    v_controlled boolean;
    v_budgeted boolean;
    v_answer jsonb;
    v_call spanledger.call;
    v_now timestamptz := clock_timestamp();
    v_i integer;
begin
    if session_user <> current_user then
        perform spanledger.require(p_tenant, 'begin');
    end if;
    -- First without a lock: a replay, and all else that changes nothing, shall cost no write.
    if v_count = 1 then
        select spanledger.replay(c, p_items -> 0, v_now) into v_answer
            from spanledger.call c where c.tenant = p_tenant and c.key = decode(p_items -> 0 ->> 'key', 'hex');
        if v_answer is not null then
            return jsonb_build_array(v_answer);
        end if;
        v_answers := '{null}';
        if found then
            v_open := '{1}';
        else
            -- What restricts it, and whether somebody else is about to claim it.
            select pg_try_advisory_xact_lock(spanledger.claim_of(p_tenant, p_items -> 0 ->> 'key')),
                p_items -> 0 ?| '{stopped,approval,permission,delegation,alias_of}'
                    or exists (select from spanledger.control c where c.tenant = p_tenant and c.active),
                exists (select from spanledger.budget b
                    where b.tenant = p_tenant and (p_items -> 0 ->> 'tool') like b.match_like)
                into v_locked, v_controlled, v_budgeted;
            if v_locked and not v_controlled and not v_budgeted then
                v_answer := spanledger.claim_alone(p_tenant, p_items -> 0);
                if v_answer is not null then
                    return jsonb_build_array(v_answer);
                end if;
            end if;
            v_fresh := '{1}';
        end if;
    else
        select array_agg(l.answer), array_agg(l.i) filter (where l.there is null),
            array_agg(l.i) filter (where l.there and l.answer is null) into v_answers, v_fresh, v_open
        from (
            select e.i::integer, c.there, c.answer from jsonb_array_elements(p_items) with ordinality e (item, i)
            left join lateral (
                select true as there, spanledger.replay(c, e.item, v_now) as answer
                from spanledger.call c where c.tenant = p_tenant and c.key = decode(e.item ->> 'key', 'hex') offset 0
            ) c on true
            order by e.i
        ) l;
    end if;
    if v_open is not null then
        foreach v_i in array v_open loop
            select * into v_call from spanledger.call c
                where c.tenant = p_tenant and c.key = decode(p_items -> (v_i - 1) ->> 'key', 'hex');
            v_answers[v_i] := spanledger.judge(v_call, p_items -> (v_i - 1), v_now, false)
                || jsonb_build_object('now_s', extract(epoch from v_now));
        end loop;
        v_open := array(select i from unnest(v_open) i where v_answers[i] is null);
    end if;
    if v_fresh is not null or v_open <> '{}' then
        if v_locked is not true and (v_count > 1
            or not pg_try_advisory_xact_lock(spanledger.claim_of(p_tenant, p_items -> 0 ->> 'key'))) then
            perform spanledger.lock_claims(p_tenant, p_items, v_fresh || v_open);
        end if;
        if coalesce(v_open, '{}') = '{}' and v_controlled is not true then
            -- Whoever has waited for a lock looks again.
            v_answers := spanledger.claim_fresh(
                p_tenant, p_items, v_fresh, v_answers, case when v_locked then v_budgeted end);
        end if;
        if array_position(v_answers, null) is not null then
            for v_i in select o.i from unnest(v_fresh || v_open) o (i) where v_answers[o.i] is null
                order by p_items -> (o.i - 1) ->> 'key', o.i
            loop
                select * into v_call from spanledger.call c
                    where c.tenant = p_tenant and c.key = decode(p_items -> (v_i - 1) ->> 'key', 'hex') for update;
                if found then
                    v_answers[v_i] := coalesce(
                        spanledger.judge(v_call, p_items -> (v_i - 1), clock_timestamp(), true),
                        spanledger.is_over(p_tenant, p_items -> (v_i - 1), v_call));
                    if v_call.state = 'in_flight' and v_answers[v_i] is null then
                        v_call.state := 'unknown';  -- it has just been found that its lease is over
                    end if;
                    v_calls[v_i] := v_call;
                end if;
            end loop;
            v_answers := spanledger.claim(p_tenant, p_items, v_calls, v_answers);
            v_now := clock_timestamp();
            for v_i in 1 .. v_count loop
                if not v_answers[v_i] ? 'now_s' then
                    v_answers[v_i] := v_answers[v_i] || jsonb_build_object('now_s', extract(epoch from v_now));
                end if;
            end loop;
        end if;
    end if;
    return coalesce(to_jsonb(v_answers), '[]');
end
$$;
