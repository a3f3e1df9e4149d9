-- How the ledger of a tenant stands, in the figures that a metric shows. Each is read through an index of few rows, so
-- that many programs may ask it once a minute.
create or replace function spanledger_v1.gauges(p_tenant text)
returns jsonb
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_budgets_max constant int := 100;
begin
    perform spanledger.require(p_tenant, 'gauges');
    return jsonb_build_object(
        'unknown', (select count(*) from spanledger.call c where c.tenant = p_tenant and c.state = 'unknown')
            + (select count(*) from spanledger.call c
                where c.tenant = p_tenant and c.state = 'in_flight' and c.lease_until <= clock_timestamp()),
        'pending', (select count(*) from spanledger.approval a
            where a.tenant = p_tenant and a.state = 'pending' and a.expires_at > clock_timestamp()),
        'pending_age_s', (select extract(epoch from clock_timestamp() - min(a.requested_at))::float8
            from spanledger.approval a
            where a.tenant = p_tenant and a.state = 'pending' and a.expires_at > clock_timestamp()),
        'budgets', (select coalesce(jsonb_agg(to_jsonb(b)), '[]') from (
            select s.name, s.unit, sum(s.limit_steps) as "limit", sum(s.spent_steps) as spent,
                sum(s.held_steps) as held
            from spanledger.balance s where s.tenant = p_tenant
            group by s.name, s.unit order by s.name limit v_budgets_max) b));
end
$$;
