-- Approvals, budgets that start anew and are kept apart, controls that begin matches, and waiters.

alter table spanledger.call drop constraint call_state_check;
alter table spanledger.call add constraint call_state_check check (state in (
    'in_flight', 'succeeded', 'failed', 'unknown', 'refused', 'released', 'reopened', 'cancelled',
    'pending', 'approved', 'denied', 'expired'));
alter table spanledger.call
    -- Somebody waits for this call until then: whoever changes it wakes them.
    add waited_until timestamptz,
    -- The last request for a person's consent, and until when it is open.
    add approval_id uuid,
    add approval_until timestamptz,
    add rule_version text,
    -- The unit of each of its accounts.
    add units text[] not null default '{}';

update spanledger.call c set units = array(
    select b.unit from unnest(c.accounts) with ordinality u (id, i)
    join spanledger.account a on a.id = u.id join spanledger.budget b on b.tenant = a.tenant and b.name = a.budget
    order by u.i) where c.accounts <> '{}';
update spanledger.history h set detail = h.detail || jsonb_build_object('units', array(
    select b.unit from jsonb_array_elements_text(h.detail -> 'accounts') with ordinality u (id, i)
    join spanledger.account a on a.id = u.id::bigint join spanledger.budget b on b.tenant = a.tenant and b.name = a.budget
    order by u.i)) where h.event = 'superseded';

-- Finds the dead: what runs is few, and most of it has ended by the time this index is looked at.
create index call_running on spanledger.call (tenant, lease_until) where state = 'in_flight';

-- Beside a primary key that begins like it, an index is taken for a look-up by key as long as nothing was analysed.
drop index spanledger.call_workflow;
create index call_workflow on spanledger.call (workflow_id, tenant, created_at);

create table spanledger.approval (
    tenant text not null,
    id uuid not null,
    key bytea not null,
    fingerprint bytea not null,
    state text not null
        check (state in ('pending', 'approved', 'denied', 'expired', 'cancelled', 'superseded', 'consumed')),
    tool text not null,
    workflow_id text not null,
    agent text,
    actor text,
    arguments text,
    reserve jsonb not null,
    -- What asked for it: the match of the rule, and of the ledger's own control where that asked.
    rule text,
    control text,
    self_approval boolean not null,
    requested_at timestamptz not null,
    requested_by uuid not null,
    expires_at timestamptz not null,
    decided_at timestamptz,
    by_name text,
    by_role text,
    note text,
    consumed_at timestamptz,
    consumed_by uuid,
    primary key (tenant, id)
);

create index approval_pending on spanledger.approval (tenant, expires_at) where state = 'pending';

alter table spanledger.budget
    add per text[] not null default '{}',
    add window_kind text check (window_kind in ('hour', 'day', 'month', 'rolling')),
    add window_s double precision,
    add timezone text not null default 'UTC',
    add soft_steps bigint;

-- What an operator says about calls besides budgets: which need an approval, which are stopped.
create table spanledger.control (
    tenant text not null,
    kind text not null check (kind in ('approval', 'switch')),
    match text not null,
    match_like text not null,
    except_like text[] not null default '{}',
    spec jsonb not null,
    -- It asks for something: an approval is needed, or calls are stopped.
    active boolean not null,
    version integer not null default 1,
    applied_at timestamptz not null,
    applied_by text,
    primary key (tenant, kind, match)
);

-- Rates of currencies, each with its date. Append only, so that a late booking finds the rate of its reservation.
create table spanledger.rate (
    tenant text not null,
    from_unit text not null,
    to_unit text not null,
    valid_from timestamptz not null,
    rate numeric not null check (rate > 0),
    applied_at timestamptz not null,
    applied_by text,
    primary key (tenant, from_unit, to_unit, valid_from, applied_at)
);

drop function if exists spanledger_v1.top_up(text, text, text, bigint, text);
drop function if exists spanledger.book(bigint[], bigint[], jsonb, boolean, boolean);
drop function if exists spanledger.claim(text, jsonb, spanledger.call, jsonb, timestamptz);
drop function if exists spanledger.lock_accounts(text, jsonb, spanledger.call[]);
drop function if exists spanledger.refusal(jsonb, bigint, jsonb, text);
drop function if exists spanledger.write_call(
    text, jsonb, spanledger.call, timestamptz, text, jsonb, bigint[], bigint[]);
drop view if exists spanledger_v1.budgets;
drop view if exists spanledger_v1.calls;
