-- Every attempt at a call and what it has cost so far; for the ledger's own views. An attempt stands here once: as the
-- row of its call, as what is known of it from before the next one, or as having come late. Of those that were pruned
-- nobody knows any more who made them and what they cost.
create or replace view spanledger.attempts as
select c.tenant, c.workflow_id, c.run_id, c.key, c.attempt_id, true as latest, c.tool, c.operation, c.agent, c.actor,
    c.state, c.key_source, c.started_at, c.ended_at,
    case c.state when 'succeeded' then spanledger.costs(c.cost, c.units, c.reserved)
        when 'failed' then spanledger.costs(c.cost, '{}', '{}') else '{}' end as cost,
    case when c.state in ('succeeded', 'failed') then c.usage end as usage
from spanledger.call c
where (c.pruned_at >= coalesce(c.ended_at, c.started_at)) is not true
union all
select c.tenant, c.workflow_id, coalesce((h.detail ->> 'run_id')::uuid, c.run_id), c.key, h.attempt_id, false, c.tool,
    c.operation, c.agent, c.actor, h.detail ->> 'state', c.key_source, (h.detail ->> 'started_at')::timestamptz,
    (h.detail ->> 'ended_at')::timestamptz,
    case h.detail ->> 'state'
        when 'succeeded' then spanledger.costs(
            h.detail -> 'cost', spanledger.texts(h.detail -> 'units'), spanledger.numbers(h.detail -> 'reserved'))
        when 'failed' then spanledger.costs(h.detail -> 'cost', '{}', '{}') else '{}' end,
    case when h.detail ->> 'state' in ('succeeded', 'failed') then h.detail -> 'usage' end
from spanledger.call c
join spanledger.history h on h.tenant = c.tenant and h.key = c.key
where h.event = 'superseded' and h.pruned_at is null and not (h.attempt_id = c.attempt_id and c.state = 'succeeded')
union all
select c.tenant, c.workflow_id, coalesce((p.detail ->> 'run_id')::uuid, c.run_id), c.key, h.attempt_id, false, c.tool,
    c.operation, c.agent, c.actor, 'late', c.key_source, (p.detail ->> 'started_at')::timestamptz, h.at,
    spanledger.costs(h.detail -> 'cost', spanledger.texts(p.detail -> 'units'), spanledger.numbers(p.detail -> 'reserved')),
    h.detail -> 'usage'
from spanledger.call c
join spanledger.history h on h.tenant = c.tenant and h.key = c.key
left join lateral (
    select s.detail from spanledger.history s
    where s.tenant = h.tenant and s.key = h.key and s.event = 'superseded' and s.attempt_id = h.attempt_id
    order by s.id desc limit 1) p on true
where h.event = 'late_success' and h.pruned_at is null and not (h.attempt_id = c.attempt_id and c.state = 'succeeded')
    and p.detail ->> 'state' is distinct from 'succeeded';
