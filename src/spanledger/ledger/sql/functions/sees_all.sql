-- Whether who logged in owns the ledger; everybody else sees the tenants they are bound to. Runs as the ledger's owner.
create or replace function spanledger.sees_all()
returns boolean
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return pg_has_role(session_user, current_user, 'member')
        or exists (select from spanledger.member m where m.role = session_user and m.tenant = '*');
end
$$;
