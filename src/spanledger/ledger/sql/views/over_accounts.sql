-- Accounts of windows that are closed and hold nothing, and since when they count nowhere; for the ledger's own functions.
-- The account of a budget without windows, and the head of a rolling one, are never over.
create or replace view spanledger.over_accounts as
select a.ctid as place, a.tenant, a.id, a.window_start, (
    select case b.window_kind
        when 'rolling' then a.window_start + make_interval(secs => b.window_s + b.window_s / 60)
        when 'hour' then a.window_start + interval '1 hour'
        when 'day' then (a.window_start at time zone b.timezone + interval '1 day') at time zone b.timezone
        else (a.window_start at time zone b.timezone + interval '1 month') at time zone b.timezone end
    from spanledger.budget b where b.tenant = a.tenant and b.name = a.budget) as over_at
from spanledger.account a
where a.window_start > '-infinity' and a.held = 0;
