-- Calls that are over and hold nothing, since when, and whether they were pruned; for the ledger's own functions. What
-- runs, waits for a person, is allowed or reopened, or has an outcome that nobody knows is not among them.
create or replace view spanledger.over_calls as
select c.ctid as place, c.tenant, c.key, coalesce(c.ended_at, c.started_at) as over_at,
    coalesce(c.pruned_at >= coalesce(c.ended_at, c.started_at), false) as pruned,
    -- Nothing comes of it: the key is used by nobody else, or nothing has run under it.
    c.key_source = 'none' or c.state in ('refused', 'released') as unguarded
from spanledger.call c
where c.state in ('succeeded', 'failed', 'refused', 'released', 'denied', 'expired', 'cancelled') and c.held = '{}';
