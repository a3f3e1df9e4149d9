-- Raise what a budget may spend. Returns false where there is no such budget in that unit.
create or replace function spanledger_v1.top_up(p_tenant text, p_budget text, p_unit text, p_steps bigint, p_by text)
returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform spanledger.require(p_tenant, 'top_up');
    update spanledger.account a set topped_up = a.topped_up + p_steps
        from spanledger.budget b
        where a.tenant = p_tenant and a.budget = p_budget
            and b.tenant = a.tenant and b.name = a.budget and b.unit = p_unit;
    if not found then
        return false;
    end if;
    insert into spanledger.history (tenant, key, at, event, attempt, by_name, detail)
        values (p_tenant, ''::bytea, clock_timestamp(), 'topped_up', 0, p_by,
            jsonb_build_object('budget', p_budget, 'unit', p_unit, 'steps', p_steps));
    return true;
end
$$;
