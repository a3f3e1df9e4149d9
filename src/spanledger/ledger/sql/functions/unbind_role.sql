-- Take every right of a database role on a tenant back. Returns false where it had none.
create or replace function spanledger_v1.unbind_role(p_role text, p_tenant text)
returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from spanledger.member m where m.role = p_role and m.tenant = p_tenant;
    if not found then
        return false;
    end if;
    if p_role in (select rolname from pg_roles) then
        execute format('revoke all on all functions in schema spanledger_v1 from %I', p_role);
        execute format('revoke all on all tables in schema spanledger_v1 from %I', p_role);
        execute format('revoke all on schema spanledger_v1 from %I', p_role);
    end if;
    perform spanledger.grant_rights();
    return true;
end
$$;
