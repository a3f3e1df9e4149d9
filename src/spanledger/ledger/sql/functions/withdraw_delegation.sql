-- Whoever has a delegation's token ends it: the agent that has passed it on, or the one that it is for. Returns what
-- `end_delegation` does; nothing where there is no such, or the wrong proof is shown.
create or replace function spanledger_v1.withdraw_delegation(
    p_tenant text, p_id uuid, p_proof text, p_by text, p_reason text)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
begin
    perform spanledger.require(p_tenant, 'withdraw_delegation');
    if exists (select from spanledger.delegation d
        where d.tenant = p_tenant and d.id = p_id and d.proof = sha256(convert_to(p_proof, 'UTF8'))) then
        return spanledger.end_delegation(p_tenant, p_id, p_by, p_reason);
    end if;
    return null;
end
$$;
