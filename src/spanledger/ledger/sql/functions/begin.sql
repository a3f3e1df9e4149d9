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
    v_call spanledger.call;
    v_accounts jsonb := '[]';
    v_open boolean := false;
    v_claimed text[] := '{}';
    v_item jsonb;
    v_now timestamptz;
    v_i integer;
begin
    perform spanledger.require(p_tenant, 'begin');
    -- First without a lock: a replay, and all else that changes nothing, shall cost no write.
    for v_i in 1 .. v_count loop
        select * into v_call from spanledger.call c
            where c.tenant = p_tenant and c.key = decode(p_items -> (v_i - 1) ->> 'key', 'hex');
        if found then
            v_answers[v_i] := spanledger.judge(v_call, p_items -> (v_i - 1), clock_timestamp(), false);
        end if;
        v_open := v_open or v_answers[v_i] is null;
    end loop;
    if v_open then
        perform pg_advisory_xact_lock(claim.hash)
            from (select distinct hashtextextended(p_tenant || (item ->> 'key'), 0) as hash
                from jsonb_array_elements(p_items) item order by 1) claim;
        for v_i in select item.i from jsonb_array_elements(p_items) with ordinality item (item, i)
            where v_answers[item.i] is null order by item.item ->> 'key', item.i
        loop
            select * into v_call from spanledger.call c
                where c.tenant = p_tenant and c.key = decode(p_items -> (v_i - 1) ->> 'key', 'hex') for update;
            if found then
                v_calls[v_i] := v_call;
                v_answers[v_i] := spanledger.judge(v_call, p_items -> (v_i - 1), clock_timestamp(), true);
            end if;
        end loop;
        v_accounts := spanledger.lock_accounts(p_tenant, p_items, v_calls);
    end if;
    v_now := clock_timestamp();
    for v_i in 1 .. v_count loop
        if v_answers[v_i] is null then
            v_item := p_items -> (v_i - 1);
            if v_item ->> 'key' = any (v_claimed) then
                v_answers[v_i] := '{"verdict": "in_progress", "attempt": 0, "attempts": 0, "lease_left_s": 0.01}';
            else
                v_claimed := v_claimed || (v_item ->> 'key');
                v_answers[v_i] := spanledger.claim(p_tenant, v_item, v_calls[v_i], v_accounts, v_now);
                v_accounts := coalesce(v_answers[v_i] -> 'accounts', v_accounts);
                v_answers[v_i] := v_answers[v_i] - 'accounts';
            end if;
        end if;
        v_answers[v_i] := v_answers[v_i] || jsonb_build_object('now_s', extract(epoch from v_now));
    end loop;
    return to_jsonb(v_answers);
end
$$;
