-- What agents say of themselves: the goals of their workflows, steps, choices, replays, and refusals that `begin` does
-- not write. Append only. The rows of calls say the rest.
create table spanledger.trail (
    tenant text not null,
    -- Made by whoever tells, so that twice is as good as once.
    id uuid not null,
    n bigint generated always as identity,
    at timestamptz not null,
    workflow_id text not null,
    event text not null check (event in ('started', 'ended', 'inner', 'step', 'decision', 'replay', 'refused', 'lost')),
    -- One run of a workflow; the next one, a retry for example, is another.
    run_id uuid,
    key bytea,
    agent text,
    actor text,
    trace_id text,
    span_id text,
    detail jsonb not null default '{}',
    by_role text not null default session_user,
    primary key (tenant, id)
);

create index trail_workflow on spanledger.trail (workflow_id, tenant, at);

-- Where the request for a person's consent is in the trace; whatever runs by that consent links to it.
alter table spanledger.approval add trace_id text, add span_id text;
