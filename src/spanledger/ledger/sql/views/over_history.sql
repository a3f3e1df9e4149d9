-- Entries of history that may go when they are old: not those of a call that is not over, nor that something was erased,
-- nor what was said of controls; for the ledger's own functions.
create or replace view spanledger.over_history as
select h.ctid as place, h.tenant, h.id, h.at as over_at
from spanledger.history h
where h.event <> 'erased' and h.key <> ''::bytea and not exists (
    select from spanledger.call c where c.tenant = h.tenant and c.key = h.key
        and (c.state in ('in_flight', 'unknown', 'pending', 'approved', 'reopened') or c.held <> '{}'));
