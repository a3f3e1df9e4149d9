-- What is over can be pruned: how it is found by its age, and until when that was done.

-- What was kept of an attempt that had ended by then was removed; the row stays, because it guards its key.
alter table spanledger.call add pruned_at timestamptz;

-- Whether it was pruned, and when it ended; refusals end when they begin.
create index call_over on spanledger.call (
    tenant, (coalesce(pruned_at >= coalesce(ended_at, started_at), false)), (coalesce(ended_at, started_at)))
    where state in ('succeeded', 'failed', 'refused', 'released', 'denied', 'expired', 'cancelled');

-- What was erased is remembered, so that no late outcome brings it back; and what was said of controls has no key.
create index history_at on spanledger.history (tenant, at) where event <> 'erased' and key <> ''::bytea;
create index approval_over on spanledger.approval (tenant, expires_at) where state not in ('pending', 'approved');
create index account_window on spanledger.account (tenant, window_start) where window_start > '-infinity';
create index delegation_over on spanledger.delegation (tenant, expires_at);
-- For whoever deletes an account.
create index delegation_account on spanledger.delegation (account) where account is not null;
create index trail_at on spanledger.trail (tenant, at);

create table spanledger.pruning (
    tenant text not null,
    part text not null check (part in ('calls', 'trail', 'evaluations')),
    -- What of it had ended before this is gone.
    before timestamptz not null,
    forgot_keys boolean not null,
    pruned_at timestamptz not null,
    by_name text not null,
    by_role text not null default session_user,
    primary key (tenant, part)
);
