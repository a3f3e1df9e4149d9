-- Which accounts each of these items has to reserve from, as {"item": [account, …]}; null where no budget matches.
-- Accounts are opened when they are first wanted. They are those of the windows at `p_at`, or now.
drop function if exists spanledger.wanted(text, jsonb, integer[]);
create or replace function spanledger.wanted(
    p_tenant text, p_items jsonb, p_open integer[], p_at timestamptz default null)
returns jsonb
language plpgsql volatile
as $$
declare
    v_now timestamptz := coalesce(p_at, clock_timestamp());
    v_wanted jsonb;
    v_missing boolean;
begin
    loop
        select jsonb_object_agg(w.i, w.accounts), bool_or(w.missing) into v_wanted, v_missing
        from (
            select o.i, bool_or(k.id is null or (b.window_kind = 'rolling' and k.head is null)) as missing,
                jsonb_agg(jsonb_build_object(
                    'id', k.id, 'head', k.head, 'budget', b.name, 'scope', k.scope, 'unit', b.unit,
                    'limit', b.limit_steps, 'soft', b.soft_steps, 'version', b.version,
                    'window_start', k.window_start, 'window_s', b.window_s) order by b.name) as accounts
            from unnest(p_open) o (i)
            join spanledger.budget b on b.tenant = p_tenant
                and (p_items -> (o.i - 1) ->> 'tool') like b.match_like
                and (b.operations is null or (p_items -> (o.i - 1) ->> 'operation') = any (b.operations))
            cross join lateral (select
                case when b.per = '{}' then '' else spanledger.scope_of(b.per, p_items -> (o.i - 1)) end as scope,
                case when b.window_kind is null then '-infinity' else spanledger.window_start(
                    b.window_kind, b.window_s, b.timezone, v_now) end as window_start offset 0) s
            -- Scalar subqueries, because the planner would take a small table to be read faster as a whole.
            cross join lateral (select s.scope, s.window_start,
                (select a.id from spanledger.account a where a.tenant = p_tenant and a.budget = b.name
                    and a.scope = s.scope and a.window_start = s.window_start) as id,
                case when b.window_kind = 'rolling' then (
                    select a.id from spanledger.account a where a.tenant = p_tenant and a.budget = b.name
                        and a.scope = s.scope and a.window_start = '-infinity') end as head offset 0) k
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
