-- Which accounts each of these items has to reserve from, as {"item": [account, …]}; null where no budget matches.
-- Accounts are opened when they are first wanted.
create or replace function spanledger.wanted(p_tenant text, p_items jsonb, p_open integer[])
returns jsonb
language plpgsql volatile
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_wanted jsonb;
    v_missing boolean;
begin
    loop
        select jsonb_object_agg(w.i, w.accounts), bool_or(w.missing) into v_wanted, v_missing
        from (
            select o.i, bool_or(a.id is null or (b.window_kind = 'rolling' and h.id is null)) as missing,
                jsonb_agg(jsonb_build_object(
                    'id', a.id, 'head', h.id, 'budget', b.name, 'scope', k.scope, 'unit', b.unit,
                    'limit', b.limit_steps, 'soft', b.soft_steps, 'version', b.version,
                    'window_start', k.window_start, 'window_s', b.window_s) order by b.name) as accounts
            from unnest(p_open) o (i)
            join spanledger.budget b on b.tenant = p_tenant
                and (p_items -> (o.i - 1) ->> 'tool') like b.match_like
                and (b.operations is null or (p_items -> (o.i - 1) ->> 'operation') = any (b.operations))
            cross join lateral (select
                spanledger.scope_of(b.per, p_items -> (o.i - 1)) as scope,
                spanledger.window_start(b.window_kind, b.window_s, b.timezone, v_now) as window_start) k
            left join spanledger.account a on a.tenant = p_tenant and a.budget = b.name
                and a.scope = k.scope and a.window_start = k.window_start
            left join spanledger.account h on b.window_kind = 'rolling' and h.tenant = p_tenant and h.budget = b.name
                and h.scope = k.scope and h.window_start = '-infinity'
            group by o.i
        ) w;
        if v_missing is not true then
            return v_wanted;
        end if;
        insert into spanledger.account (tenant, budget, scope, window_start)
            select distinct p_tenant, w ->> 'budget', w ->> 'scope', s.at
            from jsonb_each(v_wanted) e cross join jsonb_array_elements(e.value) w
            cross join lateral (values ((w ->> 'window_start')::timestamptz),
                (case when w -> 'window_s' <> 'null' then timestamptz '-infinity' end)) s (at)
            where s.at is not null
            order by 2, 3, 4
            on conflict do nothing;
    end loop;
end
$$;
