-- An agent of this name is there afterwards, however many say so at once; true where it was not before. A description
-- replaces the one it had.
create or replace function spanledger_v1.register_agent(p_tenant text, p_name text, p_description text default null)
returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    v_new boolean;
begin
    perform spanledger.require(p_tenant, 'register_agent');
    insert into spanledger.agent (tenant, name, first_seen_at, description)
        values (p_tenant, p_name, clock_timestamp(), p_description)
        on conflict (tenant, name) do nothing;
    v_new := found;
    if not v_new and p_description is not null then
        update spanledger.agent a set description = p_description
            where a.tenant = p_tenant and a.name = p_name and a.description is distinct from p_description;
    end if;
    return v_new;
end
$$;
