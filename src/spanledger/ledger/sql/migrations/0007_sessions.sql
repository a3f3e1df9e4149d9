-- Sessions, the runs that belong to them, and agents; calls that are recorded after they were made.

alter table spanledger.trail drop constraint trail_event_check;
alter table spanledger.trail add constraint trail_event_check check (event in (
    'started', 'ended', 'inner', 'step', 'decision', 'event', 'replay', 'refused', 'lost'));

-- Which run of its workflow made the present attempt.
alter table spanledger.call add run_id uuid;

create table spanledger.session (
    tenant text not null,
    id text not null,
    agent text,
    actor text,
    started_at timestamptz not null,
    primary key (tenant, id)
);

create index session_started on spanledger.session (tenant, started_at);
create index session_agent on spanledger.session (tenant, agent);

-- What belongs to a session: each time it is open somewhere, its turns, and workflows inside these.
create table spanledger.run (
    tenant text not null,
    id uuid not null,
    session_id text not null,
    kind text not null check (kind in ('session', 'turn', 'workflow')),
    -- The run that is the turn it belongs to, perhaps itself.
    turn_id uuid,
    workflow_id text not null,
    agent text,
    actor text,
    goal text,
    trace_id text,
    span_id text,
    started_at timestamptz not null,
    -- Its process has said so long that it goes on.
    alive_until timestamptz not null,
    ended_at timestamptz,
    status text check (status in ('done', 'failed', 'interrupted')),
    error text,
    ended_by text,
    primary key (tenant, id)
);

create index run_session on spanledger.run (tenant, session_id, started_at);

create table spanledger.agent (
    tenant text not null,
    name text not null,
    first_seen_at timestamptz not null,
    description text,
    primary key (tenant, name)
);
