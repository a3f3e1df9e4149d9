-- Whom an operator has granted what. What was revoked stays, and an expired grant shows when it ended.
create or replace view spanledger_v1.grants with (security_barrier) as
select
    g.tenant, g.permission, nullif(g.agent, '') as agent, nullif(g.actor, '') as actor,
    case when g.revoked_at is not null then 'revoked' when g.expires_at <= clock_timestamp() then 'expired'
        when (g.spec ->> 'allowed')::boolean then 'granted' else 'denied' end as state,
    g.spec, g.expires_at, g.revoked_at, g.version, g.applied_at, g.applied_by
from spanledger.grants g
where (select spanledger.sees_all())
    or g.tenant in (select m.tenant from spanledger.member m where m.role = session_user);
