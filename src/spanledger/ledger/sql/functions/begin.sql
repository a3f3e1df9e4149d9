-- May these calls run? One answer per item, in order.
--
-- Order of locks, the same in every transaction: claims (advisory, by hash), calls (by key), accounts (by id).
-- Items are decided in the order they came, each as if it were alone. A call is written once: claimed and
-- reserved together, or refused.
create or replace function spanledger_v1.begin(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    v_count integer := jsonb_array_length(p_items);
    v_answers jsonb[] := array_fill(null::jsonb, array[v_count]);
    v_calls spanledger.call[] := array_fill(null::spanledger.call, array[v_count]);
    v_open integer[] := '{}';
    v_call spanledger.call;
    v_now timestamptz := clock_timestamp();
    v_i integer;
begin
    perform spanledger.require(p_tenant, 'begin');
    -- First without a lock: a replay, and all else that changes nothing, shall cost no write.
    for v_i in 1 .. v_count loop
        select * into v_call from spanledger.call c
            where c.tenant = p_tenant and c.key = decode(p_items -> (v_i - 1) ->> 'key', 'hex');
        if found then
            v_answers[v_i] := spanledger.judge(v_call, p_items -> (v_i - 1), v_now, false);
        end if;
        if v_answers[v_i] is null then
            v_open := v_open || v_i;
        end if;
    end loop;
    if v_open <> '{}' then
        if v_count > 1 then
            select array_agg(o.i order by p_items -> (o.i - 1) ->> 'key', o.i) into v_open from unnest(v_open) o (i);
            perform pg_advisory_xact_lock(claim.hash)
                from (select distinct hashtextextended(p_tenant || (p_items -> (o.i - 1) ->> 'key'), 0) as hash
                    from unnest(v_open) o (i) order by 1) claim;
        else
            perform pg_advisory_xact_lock(hashtextextended(p_tenant || (p_items -> 0 ->> 'key'), 0));
        end if;
        foreach v_i in array v_open loop
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
        v_now := clock_timestamp();
    end if;
    for v_i in 1 .. v_count loop
        v_answers[v_i] := jsonb_set(v_answers[v_i], '{now_s}', to_jsonb(extract(epoch from v_now)));
    end loop;
    return to_jsonb(v_answers);
end
$$;
