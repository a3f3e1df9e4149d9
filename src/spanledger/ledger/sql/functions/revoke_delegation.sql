-- An operator takes a delegation back. Returns what `end_delegation` does; nothing where there is no such.
create or replace function spanledger_v1.revoke_delegation(p_tenant text, p_id uuid, p_by text, p_reason text)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
begin
    perform spanledger.require(p_tenant, 'revoke_delegation');
    if exists (select from spanledger.delegation d where d.tenant = p_tenant and d.id = p_id) then
        return spanledger.end_delegation(p_tenant, p_id, p_by, p_reason);
    end if;
    return null;
end
$$;
