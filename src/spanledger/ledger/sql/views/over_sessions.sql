-- Since when nothing of a session goes on; for the ledger's own functions.
create or replace view spanledger.over_sessions as
select s.tenant, s.id, s.started_at, greatest(s.started_at, (
    select max(coalesce(r.ended_at, r.alive_until)) from spanledger.run r
    where r.tenant = s.tenant and r.session_id = s.id)) as over_at
from spanledger.session s;
