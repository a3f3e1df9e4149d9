-- Authority that one agent has passed on to another: always narrower than what it came from.

create table spanledger.delegation (
    tenant text not null,
    id uuid not null,
    -- Every delegation that this one comes from, the first of them first, and itself as the last.
    chain uuid[] not null,
    -- SHA-256 of what the bearer of its token has to show: whoever reads this table can act under none of them.
    proof bytea not null,
    by_agent text not null,
    to_agent text not null,
    -- For whom it may be used; null for anybody. The same in the whole chain.
    actor text,
    permissions text[] not null,
    -- What all that runs under it, and under what came of it, may cost together: a pool of its own.
    unit text,
    max_steps bigint check (max_steps >= 0),
    account bigint references spanledger.account (id),
    reason text,
    workflow_id text,
    trace_id text,
    span_id text,
    created_at timestamptz not null,
    created_by_role text not null default session_user,
    expires_at timestamptz not null,
    revoked_at timestamptz,
    revoked_by text,
    revoked_reason text,
    primary key (tenant, id)
);

-- Under which delegation the present attempt runs, or was refused.
alter table spanledger.call add delegation uuid;
