-- Claim new calls that nothing but budgets restricts, all of them, where every budget has room for all. Null, and
-- nothing is written, where one has not or something needs a closer look: then `spanledger.claim` decides one after the
-- other. Accounts are locked by id.
create or replace function spanledger.claim_together(p_tenant text, p_items jsonb, p_fresh integer[])
returns jsonb
language plpgsql volatile
as $$
declare
    v_items integer[];
    v_ids bigint[];
    v_amounts bigint[];
    v_budgets jsonb[];
    v_special boolean;
    v_accounts bigint[] := '{}';
    v_sums bigint[] := '{}';
    v_used bigint[] := '{}';
    v_topped_up bigint[] := '{}';
    v_fits boolean;
    v_found jsonb;
    v_now timestamptz := clock_timestamp();
    v_account record;
    v_i integer;
begin
    select array_agg(w.i), array_agg(w.id), array_agg(w.amount), array_agg(w.budget), bool_or(w.special)
        into v_items, v_ids, v_amounts, v_budgets, v_special
    from (
        select f.i, k.id, (k.reserve ->> b.unit)::bigint as amount,
            jsonb_build_object('name', b.name, 'unit', b.unit, 'limit', b.limit_steps, 'soft', b.soft_steps) as budget,
            -- No account yet, a rolling window, a scope to be told, a currency to be converted, or no amount at all.
            k.id is null or b.window_kind = 'rolling' or b.per <> '{}' or (k.reserve ->> b.unit)::bigint < 0
                or not k.reserve ? b.unit
                and b.unit not in ('calls', 'tokens') and spanledger.currency_of(k.reserve) is not null as special
        from unnest(p_fresh) f (i)
        join spanledger.budget b on b.tenant = p_tenant and (p_items -> (f.i - 1) ->> 'tool') like b.match_like
            and (b.operations is null or (p_items -> (f.i - 1) ->> 'operation') = any (b.operations))
        cross join lateral (select p_items -> (f.i - 1) -> 'reserve' as reserve,
            (select a.id from spanledger.account a where a.tenant = p_tenant and a.budget = b.name and a.scope = ''
                and a.window_start = case when b.window_kind is null then '-infinity' else spanledger.window_start(
                    b.window_kind, b.window_s, b.timezone, v_now) end) as id offset 0) k
        order by f.i, b.name
    ) w;
    if v_items is null then
        return '{}';
    elsif v_special then
        return null;
    end if;
    for v_account in select u.id, sum(coalesce(u.amount, 0))::bigint as amount
        from unnest(v_ids, v_amounts) u (id, amount) group by u.id order by u.id
    loop
        v_accounts := v_accounts || v_account.id;
        v_sums := v_sums || v_account.amount;
        select v_used || (a.spent + a.held), v_topped_up || a.topped_up into v_used, v_topped_up
            from spanledger.account a where a.id = v_account.id for update;
    end loop;
    select bool_and(r.fits), jsonb_object_agg(r.i, r.found) into v_fits, v_found
    from (
        select u.i, bool_and(u.used <= u.limit_steps and (u.amount is not null or u.used < u.limit_steps)) as fits,
            jsonb_build_object('ids', array_agg(u.id)::text, 'amounts', array_agg(coalesce(u.amount, 0))::text,
                'units', array_agg(u.budget ->> 'unit')::text, 'budgets', jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
                    'name', u.budget -> 'name', 'unit', u.budget -> 'unit', 'reserved', coalesce(u.amount, 0),
                    'remaining', u.limit_steps - u.used,
                    'soft', case when u.used - coalesce(u.amount, 0) <= u.soft and u.used > u.soft then u.soft end))))
                as found
        from (
            select w.i, w.id, w.amount, w.budget, (w.budget ->> 'soft')::bigint as soft,
                (w.budget ->> 'limit')::bigint + v_topped_up[k.n] as limit_steps,
                v_used[k.n] + (sum(coalesce(w.amount, 0)) over (partition by w.id order by w.i))::bigint as used
            from unnest(v_items, v_ids, v_amounts, v_budgets) with ordinality w (i, id, amount, budget, n)
            cross join lateral (select array_position(v_accounts, w.id) as n offset 0) k
            order by w.n
        ) u
        group by u.i
    ) r;
    if not v_fits then
        return null;
    end if;
    for v_i in 1 .. cardinality(v_accounts) loop
        if v_sums[v_i] > 0 then
            update spanledger.account a set held = a.held + v_sums[v_i] where a.id = v_accounts[v_i];
        end if;
    end loop;
    return v_found;
end
$$;
