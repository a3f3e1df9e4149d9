-- Sessions, each with what its turns and calls come to. It is open while it is open anywhere; otherwise it is what became
-- of it where it was open last. One whose process died is lost. Tokens by kind are as providers have reported them; tokens
-- in all are also those that were reserved, and of which nobody has said more.
create or replace view spanledger_v1.sessions with (security_barrier) as
select s.tenant, s.id as session_id, s.agent, s.actor, o.status, o.error, s.started_at,
    case when o.status <> 'open' then o.ended_at end as ended_at, o.ended_by, t.turns, t.latency_s,
    a.calls, a.model_calls, a.recorded_calls, a.failed_calls, a.tokens, a.cost, a.model_latency_s,
    a.input_tokens, a.output_tokens, a.cached_tokens, a.reasoning_tokens, o.agent_version, o.environment
from spanledger.session s
cross join lateral (
    select v.status, v.error, v.ended_by, v.agent_version, v.environment, coalesce(v.ended_at, v.alive_until) as ended_at
    from (
        select case when r.ended_at is not null then r.status
                when r.alive_until <= clock_timestamp() then 'lost' else 'open' end as status,
            r.error, r.ended_by, r.ended_at, r.alive_until, r.agent_version, r.environment
        from spanledger.run r
        where r.tenant = s.tenant and r.session_id = s.id and r.kind = 'session') v
    order by v.status = 'open' desc, coalesce(v.ended_at, v.alive_until) desc limit 1) o
cross join lateral (
    select count(*) as turns, coalesce(sum(extract(epoch from r.ended_at - r.started_at)), 0)::double precision as latency_s
    from spanledger.run r
    where r.tenant = s.tenant and r.session_id = s.id and r.kind = 'turn') t
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
            where b.tenant = s.tenant and b.session_id = s.id
            group by c.key) m), '{}') as cost,
        coalesce(sum(extract(epoch from a.ended_at - a.started_at)) filter (
            where a.operation <> 'execute_tool'), 0)::double precision as model_latency_s
    from spanledger.run_attempts a
    where a.tenant = s.tenant and a.session_id = s.id) a
where (select spanledger.sees_all())
    or s.tenant in (select m.tenant from spanledger.member m where m.role = session_user);
