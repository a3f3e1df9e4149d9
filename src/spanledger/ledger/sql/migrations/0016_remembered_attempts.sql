-- Of a past attempt that was pruned, what its outcome would be booked on stays, or that it was booked already.
alter table spanledger.history add pruned_at timestamptz;
drop index spanledger.history_at;
create index history_at on spanledger.history (tenant, at)
    where event <> 'erased' and key <> ''::bytea and pruned_at is null;
-- One of its columns has another name now.
drop view if exists spanledger.over_calls;
