-- How far back the ledger goes for a tenant, {calls, trail}, and how many bytes its tables take for all tenants together,
-- {tables}. Pruned calls do not count.
create or replace function spanledger_v1.retained(p_tenant text)
returns jsonb
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform spanledger.require(p_tenant, 'retained');
    return jsonb_build_object(
        'calls', (select c.over_at from spanledger.over_calls c where c.tenant = p_tenant and not c.pruned
            order by c.over_at limit 1),
        'trail', (select t.at from spanledger.trail t where t.tenant = p_tenant order by t.at limit 1),
        'tables', (select jsonb_object_agg(t.relname, pg_total_relation_size(t.oid)) from pg_class t
            where t.relnamespace = 'spanledger'::regnamespace and t.relkind = 'r'));
end
$$;
