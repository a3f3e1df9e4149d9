-- Authority that agents have passed on, with how its pool stands. One whose chain is revoked or over is so itself.
create or replace view spanledger_v1.delegations with (security_barrier) as
select
    d.tenant, d.id, d.chain, nullif(d.by_agent, '') as by_agent, d.to_agent, d.actor, d.permissions,
    case when exists (select from spanledger.delegation a
            where a.tenant = d.tenant and a.id = any (d.chain) and a.revoked_at is not null) then 'revoked'
        when d.expires_at <= clock_timestamp() then 'expired' else 'active' end as state,
    d.unit, d.max_steps, a.topped_up as limit_steps, a.spent as spent_steps, a.held as held_steps,
    d.reason, d.workflow_id, d.trace_id, d.span_id, d.created_at, d.created_by_role, d.expires_at,
    d.revoked_at, d.revoked_by, d.revoked_reason,
    -- Who passed it on to whom, the first of them first.
    (select array[min(nullif(a.by_agent, '')) filter (where l.n = 1)] || array_agg(a.to_agent order by l.n)
        from unnest(d.chain) with ordinality l (id, n)
        join spanledger.delegation a on a.tenant = d.tenant and a.id = l.id) as agents
from spanledger.delegation d
left join spanledger.account a on a.id = d.account
where (select spanledger.sees_all())
    or d.tenant in (select m.tenant from spanledger.member m where m.role = session_user);
