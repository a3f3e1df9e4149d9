-- A barrier: no function of whoever reads, however cheap, is asked about rows of other tenants.
-- One row a call, as people and programs read it. A lease that is over shows as unknown before anybody asks, a request
-- that nobody answered as expired.
create or replace view spanledger_v1.calls with (security_barrier) as
select
    c.tenant, encode(c.key, 'hex') as key, c.tool, c.operation, c.workflow_id,
    case when c.state = 'in_flight' and c.lease_until <= clock_timestamp() then 'unknown'
        when c.state = 'pending' and c.approval_until <= clock_timestamp() then 'expired'
        else c.state end as state,
    c.attempt, c.attempts, c.attempt_id, c.key_source, c.call_id, c.agent, c.actor, c.rule, c.rule_version,
    c.arguments, c.result, c.result_kept, c.error, c.refusal,
    -- What was booked: what was said that it cost, else what was reserved.
    case c.state when 'succeeded' then spanledger.costs(c.cost, c.units, c.reserved) else c.cost end as cost,
    c.trace_id, c.span_id,
    c.created_at, c.started_at, c.ended_at, c.lease_until, c.approval_id,
    -- What it takes from budgets until its outcome is known.
    case when c.state in ('in_flight', 'unknown') and c.held <> '{}' then (
        select jsonb_agg(jsonb_build_object('budget', a.budget, 'unit', u.unit, 'held', u.held) order by a.budget)
        from unnest(c.accounts, c.units, c.held) u (account, unit, held)
        join spanledger.account a on a.id = u.account
        where u.held > 0) end as holds,
    c.grants, c.erased_at, c.delegation, c.usage,
    -- What was kept of the present attempt was pruned.
    case when c.pruned_at >= coalesce(c.ended_at, c.started_at) then c.pruned_at end as pruned_at
from spanledger.call c
where (select spanledger.sees_all())
    or c.tenant in (select m.tenant from spanledger.member m where m.role = session_user);
