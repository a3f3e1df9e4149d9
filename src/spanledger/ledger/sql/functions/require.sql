-- Refuse a role that may not use this function for this tenant. Called inside functions that run as their owner, where
-- session_user is who logged in and current_user who owns the ledger.
create or replace function spanledger.require(p_tenant text, p_function text)
returns void
language plpgsql stable
as $$
begin
    if session_user = current_user or pg_has_role(session_user, current_user, 'member') then
        return;
    end if;
    if not exists (
        select from spanledger.member m
        where m.role = session_user and m.tenant in (p_tenant, '*') and p_function = any (spanledger.rights(m.kind))) then
        raise exception 'role % may not % for tenant %', session_user, p_function, p_tenant
            using errcode = 'insufficient_privilege';
    end if;
end
$$;
