-- Whether who logged in may read what agents say of themselves, of this tenant: agents write it and do not read it, not
-- even their own. Runs as the ledger's owner.
create or replace function spanledger.sees_trail(p_tenant text)
returns boolean
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return pg_has_role(session_user, current_user, 'member') or exists (
        select from spanledger.member m
        where m.role = session_user and m.kind in ('operator', 'approver') and m.tenant in (p_tenant, '*'));
end
$$;
