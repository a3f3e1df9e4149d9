-- Permission: what agents and actors have been granted, and which calls need it.

alter table spanledger.control drop constraint control_kind_check;
alter table spanledger.control add constraint control_kind_check check (kind in ('approval', 'switch', 'permission'));

-- Whom an operator has granted what, or denied it. An empty agent or actor is anybody.
create table spanledger.grants (
    tenant text not null,
    permission text not null,
    agent text not null default '',
    actor text not null default '',
    -- {"allowed": …, "limit": {"unit": …, "steps": …}, "approval": true or such an amount, "reason": …}
    spec jsonb not null,
    expires_at timestamptz,
    revoked_at timestamptz,
    version integer not null default 1,
    applied_at timestamptz not null,
    applied_by text,
    primary key (tenant, permission, agent, actor)
);

-- By which grants the present attempt runs.
alter table spanledger.call add grants jsonb;

drop function if exists spanledger.consent(text, jsonb, spanledger.call, timestamptz);
