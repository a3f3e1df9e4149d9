-- What happened, an entry a row: attempts of calls as they begin and as they end, what people and clocks made of them,
-- and what agents say of themselves. A lease that is over is an entry before anybody asks. The tenants are looked at
-- above the union, because the planner takes a union apart and the barrier with it. What an entry is made of was last
-- touched at `touched_at`, never before the entry itself: by that, and by the indexes on it, what is new is found.
create or replace view spanledger_v1.timeline with (security_barrier) as
select v.* from (
    select a.tenant, m.at, 0::bigint as seq, 'call' as source, m.what, a.workflow_id, a.tool, a.operation,
        encode(a.key, 'hex') as key, a.attempt, null::uuid as run_id, a.agent, a.actor, null::text as by_name,
        a.trace_id, a.span_id, m.detail, a.touched_at
    from (
        select c.tenant, c.key, c.workflow_id, c.tool, c.operation, c.agent, c.actor, c.state, c.attempt, c.arguments,
            c.rule, c.refusal, c.error, c.cost, to_jsonb(c.reserved) as reserved, to_jsonb(c.units) as units,
            c.approval_id, c.trace_id, c.span_id, c.started_at, c.ended_at, c.lease_until,
            greatest(c.started_at, c.ended_at, c.lease_until) as touched_at,
            case when c.pruned_at >= coalesce(c.ended_at, c.started_at) then c.pruned_at end as pruned_at
        from spanledger.call c
        union all
        select h.tenant, h.key, c.workflow_id, c.tool, c.operation, c.agent, c.actor, h.detail ->> 'state', h.attempt,
            h.detail ->> 'arguments', h.detail ->> 'rule', h.detail -> 'refusal', h.detail -> 'error',
            h.detail -> 'cost', h.detail -> 'reserved', h.detail -> 'units', (h.detail ->> 'approval_id')::uuid,
            h.detail ->> 'trace_id', h.detail ->> 'span_id', (h.detail ->> 'started_at')::timestamptz,
            (h.detail ->> 'ended_at')::timestamptz, null, h.at, h.pruned_at
        from spanledger.history h
        join spanledger.call c on c.tenant = h.tenant and c.key = h.key
        where h.event = 'superseded'
    ) a
    cross join lateral (
        select a.started_at as at,
            case when a.state = 'refused' then 'refused'
                when a.state in ('pending', 'approved', 'denied', 'expired')
                    or (a.state = 'cancelled' and a.attempt = 0) then 'asked'
                else 'run' end as what,
            jsonb_strip_nulls(jsonb_build_object(
                'arguments', a.arguments, 'rule', a.rule, 'refusal', a.refusal, 'approval_id', a.approval_id,
                'pruned_at', a.pruned_at,
                'control', (select p.control from spanledger.approval p
                    where p.tenant = a.tenant and p.id = a.approval_id))) as detail
        union all
        select coalesce(a.ended_at, a.lease_until), case a.state when 'in_flight' then 'unknown' else a.state end,
            jsonb_strip_nulls(jsonb_build_object(
                'error', a.error, 'cost', a.cost, 'reserved', (
                    select jsonb_object_agg(u.unit, u.steps) from (
                        select unit.unit, max(steps.steps::bigint) as steps
                        from jsonb_array_elements_text(a.units) with ordinality unit (unit, n)
                        join jsonb_array_elements_text(a.reserved) with ordinality steps (steps, n) on steps.n = unit.n
                        group by unit.unit) u),
                'lease_until', case a.state when 'in_flight' then a.lease_until end))
        where (a.ended_at is not null and a.state in ('succeeded', 'failed', 'unknown', 'released'))
            or (a.state = 'in_flight' and a.lease_until <= clock_timestamp())
    ) m
    union all
    select h.tenant, h.at, h.id, 'history', h.event, c.workflow_id, c.tool, c.operation, encode(h.key, 'hex'),
        h.attempt, null, c.agent, c.actor, h.by_name, h.detail ->> 'trace_id', h.detail ->> 'span_id',
        h.detail || case when h.pruned_at is null then '{}' else jsonb_build_object('pruned_at', h.pruned_at) end,
        h.at
    from spanledger.history h
    join spanledger.call c on c.tenant = h.tenant and c.key = h.key
    where h.event <> 'superseded'
    union all
    -- What was asked of no call in particular: whether something is permitted, and whether it may be passed on.
    select h.tenant, h.at, h.id, 'history', h.event, h.detail ->> 'workflow_id', null, null, encode(h.key, 'hex'), null,
        null, h.detail ->> 'agent', h.detail ->> 'actor', null, h.detail ->> 'trace_id', h.detail ->> 'span_id', h.detail,
        h.at
    from spanledger.history h
    where h.event in ('authorized', 'not_authorized', 'delegated', 'not_delegated')
    union all
    select t.tenant, t.at, t.n, 'trail', t.event, t.workflow_id, coalesce(c.tool, t.detail ->> 'tool'), c.operation,
        encode(t.key, 'hex'), null, t.run_id, t.agent, t.actor, null, t.trace_id, t.span_id, t.detail,
        t.at
    from spanledger.trail t
    left join spanledger.call c on c.tenant = t.tenant and c.key = t.key
    where spanledger.sees_trail(t.tenant)
) v
where (select spanledger.sees_all())
    or v.tenant in (select m.tenant from spanledger.member m where m.role = session_user);
