-- Write controls into the ledger: {budgets, approvals, permissions, switches, grants, new_grants, rates}. They are added
-- or changed by name, and never removed here: two programs with different files may share one ledger. What was spent stays spent. Every change has a
-- version, and history keeps what was there before.
create or replace function spanledger_v1.apply(p_tenant text, p_controls jsonb, p_by text)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform spanledger.require(p_tenant, 'apply');
    perform spanledger.apply_budgets(p_tenant, coalesce(p_controls -> 'budgets', '[]'), p_by);
    perform spanledger.apply_controls(p_tenant, 'approval', coalesce(p_controls -> 'approvals', '[]'), p_by);
    perform spanledger.apply_controls(p_tenant, 'permission', coalesce(p_controls -> 'permissions', '[]'), p_by);
    perform spanledger.apply_controls(p_tenant, 'switch', coalesce(p_controls -> 'switches', '[]'), p_by);
    perform spanledger.apply_grants(p_tenant, coalesce(p_controls -> 'grants', '[]'), p_by, false);
    perform spanledger.apply_grants(p_tenant, coalesce(p_controls -> 'new_grants', '[]'), p_by, true);
    insert into spanledger.rate (tenant, from_unit, to_unit, valid_from, rate, applied_at, applied_by)
        select p_tenant, r.from_unit, r.to_unit, r.valid_from, r.rate, clock_timestamp(), p_by
        from jsonb_to_recordset(coalesce(p_controls -> 'rates', '[]'))
            r (from_unit text, to_unit text, valid_from timestamptz, rate numeric)
        where r.rate is distinct from (
            select last.rate from spanledger.rate last
            where last.tenant = p_tenant and last.from_unit = r.from_unit and last.to_unit = r.to_unit
                and last.valid_from = r.valid_from
            order by last.applied_at desc limit 1);
end
$$;
