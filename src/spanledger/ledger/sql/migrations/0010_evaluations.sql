-- Evaluations: runs of suites, and how each of their cases was judged.

create table spanledger.eval_run (
    tenant text not null,
    id text not null,
    suite text not null,
    -- A hash of the cases and of the names of those who judge: runs of one version are about the same.
    suite_version text not null,
    cases integer not null check (cases > 0),
    agent text,
    state text not null check (state in ('running', 'completed', 'interrupted')),
    -- Which process runs it, and until when it is believed alive.
    runner uuid not null,
    alive_until timestamptz not null,
    started_at timestamptz not null,
    ended_at timestamptz,
    by_role text not null default session_user,
    primary key (tenant, id)
);

create index eval_run_suite on spanledger.eval_run (tenant, suite, started_at);

-- One row for each case and each who judged it; without an evaluator, the case itself ended in an error.
create table spanledger.eval_result (
    tenant text not null,
    run_id text not null,
    case_id text not null,
    evaluator text not null default '',
    outcome text not null check (outcome in ('passed', 'failed', 'error')),
    score double precision,
    label text,
    explanation text,
    error jsonb,
    output text,
    trace_id text,
    span_id text,
    duration_s double precision,
    at timestamptz not null,
    primary key (tenant, run_id, case_id, evaluator),
    foreign key (tenant, run_id) references spanledger.eval_run (tenant, id)
);
