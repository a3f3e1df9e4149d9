-- Since when runs of evaluations do not go on; for the ledger's own functions.
create or replace view spanledger.over_eval_runs as
select r.tenant, r.id, greatest(r.started_at, coalesce(r.ended_at, r.alive_until)) as over_at
from spanledger.eval_run r;
