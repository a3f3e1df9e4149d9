-- Claim new calls that nothing but budgets restricts, all of them, where every budget has room for all. Null, and
-- nothing is written, where one has not or something needs a closer look: then `spanledger.claim` decides one after the
-- other. Accounts are locked by id.
create or replace function spanledger.claim_together(p_tenant text, p_items jsonb, p_fresh integer[])
returns jsonb
language plpgsql volatile
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_special boolean;
    v_fits boolean;
    v_found jsonb;
    v_sums jsonb;
    v_sum record;
begin
    with wanted as materialized (
        select f.i, k.id, b.name, b.unit, b.limit_steps, b.soft_steps, (k.reserve ->> b.unit)::bigint as amount,
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
    ), locked as materialized (
        select w.id, w.amount, a.used, a.topped_up
        from (
            select id, sum(coalesce(amount, 0))::bigint as amount from wanted
            -- Behind the claims' locks: what is not there now is there before us no more. If something is, its lock comes
            -- before those of accounts, so none is taken; nor where `claim` will lock more of them, some of lower ids.
            -- Scalar subqueries, here and above, because the planner would take a small table to be read faster as a
            -- whole.
            where not exists (select from wanted s where s.special) and cardinality(p_fresh) = (
                select count(distinct i.key) from (select p_items -> (n - 1) ->> 'key' as key from unnest(p_fresh) n) i
                where (select true from spanledger.call c
                    where c.tenant = p_tenant and c.key = decode(i.key, 'hex')) is null)
            group by id order by id) w
        cross join lateral (
            select a.spent + a.held as used, a.topped_up from spanledger.account a where a.id = w.id for update) a
    ), found as (
        select u.i, bool_and(u.used <= u.limit_steps and (u.amount is not null or u.used < u.limit_steps)) as fits,
            jsonb_build_object('ids', array_agg(u.id)::text, 'amounts', array_agg(coalesce(u.amount, 0))::text,
                'units', array_agg(u.unit)::text, 'budgets', jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
                    'name', u.name, 'unit', u.unit, 'reserved', coalesce(u.amount, 0),
                    'remaining', u.limit_steps - u.used,
                    'soft', case when u.used - coalesce(u.amount, 0) <= u.soft_steps and u.used > u.soft_steps
                        then u.soft_steps end))))
                as found
        from (
            select w.i, w.id, w.name, w.unit, w.amount, w.soft_steps, w.limit_steps + l.topped_up as limit_steps,
                l.used + (sum(coalesce(w.amount, 0)) over (partition by w.id order by w.i))::bigint as used
            from wanted w join locked l on l.id = w.id
            order by w.i, w.name
        ) u
        group by u.i
    )
    select (select bool_or(coalesce(w.special, false)) from wanted w), bool_and(f.fits), jsonb_object_agg(f.i, f.found),
        (select jsonb_object_agg(l.id, l.amount) from locked l where l.amount > 0)
        into v_special, v_fits, v_found, v_sums
        from found f;
    if v_special is null then
        return '{}';
    elsif v_special or v_fits is not true then
        return null;
    end if;
    for v_sum in select s.key::bigint as id, s.value::bigint as amount from jsonb_each(v_sums) s order by 1 loop
        update spanledger.account a set held = a.held + v_sum.amount where a.id = v_sum.id;
    end loop;
    return v_found;
end
$$;
