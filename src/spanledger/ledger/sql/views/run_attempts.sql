-- The attempts at calls that belong to a session, by the run that made them, each with all that `attempts` says of it,
-- tokens by kind included; for the ledger's own views. A call that was made by hand under the workflow of a turn belongs
-- to the first run of it.
create or replace view spanledger.run_attempts as
select r.session_id, r.turn_id, r.id as run, a.*
from spanledger.run r
join spanledger.attempts a on a.tenant = r.tenant and a.workflow_id = r.workflow_id
    and (a.run_id = r.id or (a.run_id is null and r.kind = 'turn' and not exists (
        select from spanledger.run e
        where e.tenant = r.tenant and e.session_id = r.session_id and e.kind = 'turn' and e.workflow_id = r.workflow_id
            and (e.started_at, e.id) < (r.started_at, r.id))));
