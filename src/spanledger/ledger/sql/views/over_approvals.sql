-- Requests for a person's consent that are over, and since when; one that a call goes by is so with the call. For the
-- ledger's own functions.
create or replace view spanledger.over_approvals as
select a.ctid as place, a.tenant, a.id, a.expires_at, greatest(a.expires_at, (
    select max(case when c.state in ('in_flight', 'unknown', 'pending', 'approved', 'reopened') or c.held <> '{}'
        then 'infinity' else coalesce(c.ended_at, c.started_at) end)
    from spanledger.call c where c.tenant = a.tenant and c.key = a.key and c.approval_id = a.id)) as over_at
from spanledger.approval a
where a.state not in ('pending', 'approved');
