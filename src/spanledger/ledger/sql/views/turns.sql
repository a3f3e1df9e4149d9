-- The turns of sessions, one row each time one was run: how it ended, how long it took, and what its calls have cost,
-- those of workflows inside it included. A run that has ended without a word is lost: its process died.
create or replace view spanledger_v1.turns with (security_barrier) as
select r.tenant, r.session_id, r.id as turn_id, r.workflow_id, r.agent, r.actor, r.goal,
    case when r.ended_at is not null then r.status when r.alive_until <= clock_timestamp() then 'lost' else 'open' end
        as status,
    r.error, r.started_at, r.ended_at, r.alive_until, r.ended_by,
    extract(epoch from r.ended_at - r.started_at)::double precision as latency_s,
    s.calls, s.model_calls, s.recorded_calls, s.failed_calls, s.tokens, s.cost, s.model_latency_s, r.trace_id, r.span_id,
    s.input_tokens, s.output_tokens, s.cached_tokens, s.reasoning_tokens, r.agent_version, r.environment
from spanledger.run r
cross join lateral (
    select count(*) filter (where a.latest and a.state <> 'refused') as calls,
        count(*) filter (where a.latest and a.state <> 'refused' and a.operation <> 'execute_tool') as model_calls,
        count(*) filter (where a.latest and a.key_source = 'recorded') as recorded_calls,
        count(*) filter (where a.latest and a.state in ('failed', 'unknown')) as failed_calls,
        coalesce(sum((a.cost ->> 'tokens')::bigint), 0)::bigint as tokens,
        coalesce(sum(spanledger.tokens_of(a.usage, 'input_tokens')), 0)::bigint as input_tokens,
        coalesce(sum(spanledger.tokens_of(a.usage, 'output_tokens')), 0)::bigint as output_tokens,
        coalesce(sum(spanledger.tokens_of(a.usage, 'cached_tokens')), 0)::bigint as cached_tokens,
        coalesce(sum(spanledger.tokens_of(a.usage, 'reasoning_tokens')), 0)::bigint as reasoning_tokens,
        coalesce((select jsonb_object_agg(m.unit, m.steps) from (
            select c.key as unit, sum(c.value::bigint) as steps
            from spanledger.run_attempts b cross join lateral jsonb_each_text(b.cost - 'tokens') c
            where b.tenant = r.tenant and b.session_id = r.session_id and b.turn_id = r.id
            group by c.key) m), '{}') as cost,
        coalesce(sum(extract(epoch from a.ended_at - a.started_at)) filter (
            where a.operation <> 'execute_tool'), 0)::double precision as model_latency_s
    from spanledger.run_attempts a
    where a.tenant = r.tenant and a.session_id = r.session_id and a.turn_id = r.id) s
where r.kind = 'turn' and ((select spanledger.sees_all())
    or r.tenant in (select m.tenant from spanledger.member m where m.role = session_user));
