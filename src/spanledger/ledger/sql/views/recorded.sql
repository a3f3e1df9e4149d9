-- Every attempt at a call that the ledger wrote down, the past ones as well, with what its begin was about. Of a past
-- attempt, the call id and who made it are those of the last one. What agents told of replays is among them, where
-- whoever reads may read that; its arguments are those of the original where the key is made of all of them, and not known
-- otherwise. What was pruned, and replays of it, are not: nobody knows any more with what they were made. The tenants are
-- looked at above the union, because the planner takes a union apart and the barrier with it.
create or replace view spanledger_v1.recorded with (security_barrier) as
select
    v.tenant, encode(v.key, 'hex') as key, v.attempt_id, v.attempt, v.state, v.tool, v.operation, v.workflow_id,
    v.key_source, encode(v.fingerprint, 'hex') as fingerprint, v.call_id, v.agent, v.actor, v.rule, v.arguments,
    v.approval_id, v.started_at, v.ended_at, v.lease_until, v.cost,
    -- As far as budgets took note of it; else what a person was asked about, or what was more than was left.
    coalesce((
        select jsonb_object_agg(u.unit, u.steps) from (
            select unit.unit, max(steps.steps) as steps
            from unnest(v.units) with ordinality unit (unit, n)
            join unnest(v.reserved) with ordinality steps (steps, n) on steps.n = unit.n
            group by unit.unit) u),
        (select a.reserve from spanledger.approval a where a.tenant = v.tenant and a.id = v.approval_id),
        -- Of a budget, or of what was granted.
        case when v.refusal ->> 'requested' is not null then jsonb_build_object(
            coalesce(v.refusal ->> 'unit', v.refusal #>> '{limit,unit}'), v.refusal -> 'requested') end
    ) as reserved,
    v.trace_id, v.span_id, v.delegation,
    -- How many had run by then, without those that provably never started.
    v.attempts
from (
    select c.tenant, c.key, c.attempt_id, c.attempt, c.state, c.tool, c.operation, c.workflow_id, c.key_source,
        c.fingerprint, c.call_id, c.agent, c.actor, c.rule, c.arguments, c.approval_id, c.started_at, c.ended_at,
        c.lease_until, c.cost, c.refusal, c.reserved, c.units, c.trace_id, c.span_id, c.delegation,
        c.attempts
    from spanledger.call c
    where (c.pruned_at >= coalesce(c.ended_at, c.started_at)) is not true
    union all
    select h.tenant, h.key, h.attempt_id, h.attempt, h.detail ->> 'state', c.tool, c.operation, c.workflow_id,
        c.key_source, decode(h.detail ->> 'fingerprint', 'hex'), c.call_id, c.agent, c.actor, h.detail ->> 'rule',
        h.detail ->> 'arguments', (h.detail ->> 'approval_id')::uuid, (h.detail ->> 'started_at')::timestamptz,
        (h.detail ->> 'ended_at')::timestamptz, null, h.detail -> 'cost',
        h.detail -> 'refusal',
        array(select a::bigint from jsonb_array_elements_text(h.detail -> 'reserved') a),
        array(select u from jsonb_array_elements_text(h.detail -> 'units') u), h.detail ->> 'trace_id',
        h.detail ->> 'span_id', (h.detail ->> 'delegation')::uuid,
        coalesce((h.detail ->> 'attempts')::integer, h.attempt)
    from spanledger.history h
    join spanledger.call c on c.tenant = h.tenant and c.key = h.key
    where h.event = 'superseded' and h.pruned_at is null
    union all
    select t.tenant, t.key, t.id, 0, 'replayed', c.tool, c.operation, c.workflow_id, c.key_source,
        case when c.key_source in ('arguments', 'call_id', 'occurrence') then c.fingerprint end, c.call_id, coalesce(t.agent, c.agent),
        coalesce(t.actor, c.actor), c.rule, case when c.key_source in ('arguments', 'call_id', 'occurrence') then c.arguments end, null,
        t.at, null, null, null, null, c.reserved, c.units, t.trace_id, t.span_id,
        c.delegation, 0
    from spanledger.trail t
    join spanledger.call c on c.tenant = t.tenant and c.key = t.key
    where t.event = 'replay' and spanledger.sees_trail(t.tenant)
        and (c.pruned_at >= coalesce(c.ended_at, c.started_at)) is not true
) v
where (select spanledger.sees_all())
    or v.tenant in (select m.tenant from spanledger.member m where m.role = session_user);
