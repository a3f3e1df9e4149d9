-- What agents have spent in all, one row an agent; calls without one are under null. It reads every call of the tenant.
create or replace view spanledger_v1.spending with (security_barrier) as
select v.tenant, v.agent, count(*) filter (where v.latest and v.state <> 'refused') as calls,
    count(*) filter (where v.latest and v.state = 'refused') as refused_calls,
    count(*) filter (where v.latest and v.state in ('failed', 'unknown')) as failed_calls,
    coalesce(sum((v.cost ->> 'tokens')::bigint), 0)::bigint as tokens,
    coalesce((select jsonb_object_agg(m.unit, m.steps) from (
        select c.key as unit, sum(c.value::bigint) as steps
        from unnest(array_agg(v.cost - 'tokens')) k (cost) cross join lateral jsonb_each_text(k.cost) c
        group by c.key) m), '{}') as cost,
    max(v.started_at) as last_call_at,
    coalesce(sum(spanledger.tokens_of(v.usage, 'input_tokens')), 0)::bigint as input_tokens,
    coalesce(sum(spanledger.tokens_of(v.usage, 'output_tokens')), 0)::bigint as output_tokens
from spanledger.attempts v
where (select spanledger.sees_all())
    or v.tenant in (select m.tenant from spanledger.member m where m.role = session_user)
group by v.tenant, v.agent;
