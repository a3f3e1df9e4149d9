-- Delegations that have expired and under which nothing runs or holds anything; for the ledger's own functions. What came
-- of one ends no later, and is deeper.
create or replace view spanledger.over_delegations as
select d.ctid as place, d.tenant, d.id, d.account, d.expires_at as over_at, cardinality(d.chain) as depth
from spanledger.delegation d
where not exists (select from spanledger.account a where a.id = d.account and a.held <> 0)
    and not exists (
        select from spanledger.call c where c.tenant = d.tenant and c.delegation = d.id
            and (c.state in ('in_flight', 'unknown', 'pending', 'approved', 'reopened') or c.held <> '{}'));
