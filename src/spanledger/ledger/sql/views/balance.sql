-- How every budget stands in its present window, one row a scope; for the ledger's own functions.
create or replace view spanledger.balance as
select
    b.tenant, b.name, b.unit, b.match, b.operations, b.per, b.window_kind, b.window_s, b.timezone, b.soft_steps,
    b.version, coalesce(a.scope, '') as scope, nullif(a.window_start, '-infinity') as window_start,
    b.limit_steps as base_steps, (b.limit_steps + coalesce(a.topped_up, 0))::bigint as limit_steps,
    coalesce(a.spent, 0)::bigint as spent_steps, coalesce(a.held, 0)::bigint as held_steps,
    (b.limit_steps + coalesce(a.topped_up, 0) - coalesce(a.spent, 0) - coalesce(a.held, 0))::bigint as remaining_steps
from spanledger.budget b
left join lateral (
    select a.scope, min(a.window_start) as window_start,
        least(sum(a.topped_up), 1000000000000000000) as topped_up,
        least(sum(a.spent), 4000000000000000000) as spent, sum(a.held) as held
    from spanledger.account a
    where a.tenant = b.tenant and a.budget = b.name
        and a.window_start >= spanledger.live_since(b.window_kind, b.window_s, b.timezone, clock_timestamp())
        -- Of a calendar's windows one counts, also where a budget had shorter ones before.
        and (b.window_kind = 'rolling'
            or a.window_start = spanledger.window_start(b.window_kind, b.window_s, b.timezone, clock_timestamp()))
    group by a.scope) a on true
-- What delegations may spend is shown with them.
where b.per <> '{delegation}';
