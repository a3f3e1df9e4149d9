-- Write controls into the ledger. Budgets are added or changed by name, never removed here: two programs with
-- different files may share one ledger. What was spent stays spent.
create or replace function spanledger_v1.apply(p_tenant text, p_controls jsonb, p_by text)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform spanledger.require(p_tenant, 'apply');
    if exists (
        select from jsonb_array_elements(p_controls -> 'budgets') item
        join spanledger.budget b on b.tenant = p_tenant and b.name = item ->> 'name'
        where b.unit <> item ->> 'unit') then
        raise exception 'a budget keeps its unit; give the new one another name' using errcode = 'SL001';
    end if;
    insert into spanledger.budget as b
        (tenant, name, unit, limit_steps, match, match_like, operations, applied_at, applied_by)
        select p_tenant, item ->> 'name', item ->> 'unit', (item ->> 'limit')::bigint, item ->> 'match',
            replace(replace(replace(replace(item ->> 'match', '\', '\\'), '%', '\%'), '_', '\_'), '*', '%'),
            (select array_agg(o) from jsonb_array_elements_text(nullif(item -> 'operations', 'null')) o),
            clock_timestamp(), p_by
        from jsonb_array_elements(p_controls -> 'budgets') item
        order by item ->> 'name'
    on conflict (tenant, name) do update set
        limit_steps = excluded.limit_steps, match = excluded.match, match_like = excluded.match_like,
        operations = excluded.operations, version = b.version + 1,
        applied_at = excluded.applied_at, applied_by = excluded.applied_by
        where (b.limit_steps, b.match, b.operations)
            is distinct from (excluded.limit_steps, excluded.match, excluded.operations);
    insert into spanledger.account (tenant, budget)
        select p_tenant, item ->> 'name' from jsonb_array_elements(p_controls -> 'budgets') item
        order by item ->> 'name'
        on conflict do nothing;
end
$$;
