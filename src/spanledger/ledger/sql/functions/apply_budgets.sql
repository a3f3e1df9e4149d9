-- Budgets among the controls that `apply` writes.
create or replace function spanledger.apply_budgets(p_tenant text, p_budgets jsonb, p_by text)
returns void
language plpgsql volatile
as $$
begin
    -- An unknown time zone is an error here and not at every call.
    perform clock_timestamp() at time zone coalesce(item ->> 'timezone', 'UTC') from jsonb_array_elements(p_budgets) item;
    if exists (
        select from jsonb_array_elements(p_budgets) item
        join spanledger.budget b on b.tenant = p_tenant and b.name = item ->> 'name'
        where b.unit <> item ->> 'unit') then
        raise exception 'a budget keeps its unit; give the new one another name' using errcode = 'SL001';
    end if;
    if exists (
        select from jsonb_array_elements(p_budgets) item
        join spanledger.budget b on b.tenant = p_tenant and b.name = item ->> 'name' and b.per = '{delegation}') then
        raise exception 'a budget of that name stands where what is delegated is kept: give it another one'
            using errcode = 'SL001';
    end if;
    with written as (
        insert into spanledger.budget as b (tenant, name, unit, limit_steps, match, match_like, operations, per,
                window_kind, window_s, timezone, soft_steps, applied_at, applied_by)
            select p_tenant, item ->> 'name', item ->> 'unit', (item ->> 'limit')::bigint, item ->> 'match',
                spanledger.like_of(item ->> 'match'),
                (select array_agg(o) from jsonb_array_elements_text(nullif(item -> 'operations', 'null')) o),
                coalesce((select array_agg(o) from jsonb_array_elements_text(nullif(item -> 'per', 'null')) o), '{}'),
                item ->> 'window', (item ->> 'window_s')::double precision, coalesce(item ->> 'timezone', 'UTC'),
                (item ->> 'soft')::bigint, clock_timestamp(), p_by
            from jsonb_array_elements(p_budgets) item
            order by item ->> 'name'
        on conflict (tenant, name) do update set
            limit_steps = excluded.limit_steps, match = excluded.match, match_like = excluded.match_like,
            operations = excluded.operations, per = excluded.per, window_kind = excluded.window_kind,
            window_s = excluded.window_s, timezone = excluded.timezone, soft_steps = excluded.soft_steps,
            version = b.version + 1, applied_at = excluded.applied_at, applied_by = excluded.applied_by
            where (b.limit_steps, b.match, b.operations, b.per, b.window_kind, b.window_s, b.timezone, b.soft_steps)
                is distinct from (excluded.limit_steps, excluded.match, excluded.operations, excluded.per,
                    excluded.window_kind, excluded.window_s, excluded.timezone, excluded.soft_steps)
        returning b.name
    )
    insert into spanledger.history (tenant, key, at, event, attempt, by_name, detail)
        select p_tenant, ''::bytea, clock_timestamp(), 'budget_changed', 0, p_by,
            -- As it was before this statement.
            jsonb_build_object('before', to_jsonb(b), 'after', item)
        from written
        join jsonb_array_elements(p_budgets) item on item ->> 'name' = written.name
        join spanledger.budget b on b.tenant = p_tenant and b.name = written.name;
end
$$;
