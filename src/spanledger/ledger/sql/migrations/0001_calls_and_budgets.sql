-- Tables are private; programs use the functions and views of schema spanledger_v1.
-- Everything is keyed by tenant first, so that the tables can be partitioned and distributed by it.

create schema spanledger_v1;

create table spanledger.call (
    tenant text not null,
    key bytea not null,
    state text not null
        check (state in ('in_flight', 'succeeded', 'failed', 'unknown', 'refused', 'released', 'reopened', 'cancelled')),
    -- The fencing number grows with every run; `attempts` leaves out those that provably never started.
    attempt integer not null,
    attempts integer not null,
    attempt_id uuid not null,
    tool text not null,
    operation text not null,
    workflow_id text not null,
    key_source text not null,
    fingerprint bytea,
    call_id text,
    agent text,
    actor text,
    rule text,
    -- JSON as text: jsonb would refuse some strings and change some numbers.
    arguments text,
    result text,
    result_kept boolean not null default false,
    error jsonb,
    refusal jsonb,
    trace_id text,
    span_id text,
    -- Accounts this attempt reserved from and how much of each; and what it still holds, until its outcome is known.
    accounts bigint[] not null default '{}',
    reserved bigint[] not null default '{}',
    held bigint[] not null default '{}',
    cost jsonb,
    lease_until timestamptz,
    -- One prober at a time, and which: a begin that asks again gets its own probe, not somebody else's.
    probe_until timestamptz,
    probe_id uuid,
    created_at timestamptz not null,
    started_at timestamptz not null,
    ended_at timestamptz,
    primary key (tenant, key)
) with (fillfactor = 80);

create index call_workflow on spanledger.call (tenant, workflow_id, created_at);

-- What happened to calls beyond what their row shows now. Append only.
create table spanledger.history (
    id bigint generated always as identity,
    tenant text not null,
    key bytea not null,
    at timestamptz not null,
    event text not null,
    attempt integer not null,
    attempt_id uuid,
    by_name text,
    by_role text not null default session_user,
    detail jsonb not null default '{}',
    primary key (tenant, id)
);

create index history_key on spanledger.history (tenant, key);

create table spanledger.budget (
    tenant text not null,
    name text not null,
    unit text not null,
    limit_steps bigint not null check (limit_steps >= 0),
    match text not null,
    match_like text not null,
    operations text[],
    version integer not null default 1,
    applied_at timestamptz not null,
    applied_by text not null,
    primary key (tenant, name)
);

-- One account per budget, scope and window; budgets have one scope and one window so far.
create table spanledger.account (
    id bigint generated always as identity primary key,
    tenant text not null,
    budget text not null,
    scope text not null default '',
    window_start timestamptz not null default '-infinity',
    topped_up bigint not null default 0,
    spent bigint not null default 0,
    held bigint not null default 0 check (held >= 0),
    unique (tenant, budget, scope, window_start),
    foreign key (tenant, budget) references spanledger.budget (tenant, name)
) with (fillfactor = 50);

-- Which database roles may do what for whom, besides the owner of these tables.
create table spanledger.member (
    role text not null,
    kind text not null,
    tenant text not null,
    bound_at timestamptz not null,
    bound_by text,
    primary key (role, kind, tenant)
);
