-- Calls that are over and hold nothing, since when, and whether they were pruned; for the ledger's own functions. What
-- runs, waits for a person, is allowed or reopened, or has an outcome that nobody knows is not among them.
create or replace view spanledger.over_calls as
select c.ctid as place, c.tenant, c.key, coalesce(c.ended_at, c.started_at) as over_at,
    coalesce(c.pruned_at >= coalesce(c.ended_at, c.started_at), false) as pruned,
    -- Nothing comes of it: the key is used by nobody else, or nothing has run under it. But where somebody other than its
    -- worker said how it ended, or it ran unguarded, its outcome may yet be told.
    c.state in ('refused', 'released') or (c.key_source = 'none'
        and (c.accounts = '{}' or c.state = 'succeeded'
            or (c.state = 'failed' and coalesce(c.error ->> 'type', '') not in ('lost', 'resolved')))
        and not exists (select from spanledger.history h
            where h.tenant = c.tenant and h.key = c.key and h.event = 'unguarded')) as goes
from spanledger.call c
where c.state in ('succeeded', 'failed', 'refused', 'released', 'denied', 'expired', 'cancelled') and c.held = '{}';
