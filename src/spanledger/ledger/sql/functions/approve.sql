-- A person allows calls to run, once each, with exactly the arguments that were asked about.
create or replace function spanledger_v1.approve(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
begin
    perform spanledger.require(p_tenant, 'approve');
    return spanledger.decide_items(p_tenant, p_items, 'approved');
end
$$;
