-- Entries of history that may go when they are old: not those of a call that is not over, nor that something was erased,
-- nor what was said of controls. Some stay without their payload while their call's row does, because an outcome may yet
-- be told: what it would be booked on, where it never was, and that it was, where it could be told again. For the ledger's
-- own functions.
create or replace view spanledger.over_history as
select h.ctid as place, h.tenant, h.id, h.at as over_at,
    (h.event in ('late_success', 'failure_spent', 'unguarded')
        or (h.event = 'late_failure' and h.detail -> 'cost' <> '{}')
        or (h.event = 'superseded' and h.detail ->> 'state' <> 'succeeded' and h.detail ? 'accounts'
            and h.detail -> 'accounts' <> '[]'))
        and exists (select from spanledger.call c where c.tenant = h.tenant and c.key = h.key) as stays
from spanledger.history h
where h.event <> 'erased' and h.key <> ''::bytea and h.pruned_at is null and not exists (
    select from spanledger.call c where c.tenant = h.tenant and c.key = h.key
        and (c.state in ('in_flight', 'unknown', 'pending', 'approved', 'reopened') or c.held <> '{}'));
