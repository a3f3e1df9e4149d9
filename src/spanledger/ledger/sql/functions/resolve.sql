-- A person says what became of calls of unknown outcome; `spanledger.resolve_items` has the meaning.
create or replace function spanledger_v1.resolve(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
begin
    perform spanledger.require(p_tenant, 'resolve');
    return spanledger.resolve_items(p_tenant, p_items);
end
$$;
