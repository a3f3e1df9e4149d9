-- A person does not allow calls to run: final under their keys until somebody resolves them as retry.
create or replace function spanledger_v1.deny(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
begin
    perform spanledger.require(p_tenant, 'deny');
    return spanledger.decide_items(p_tenant, p_items, 'denied');
end
$$;
