-- Agents that the ledger has heard of, with their sessions and what they have been granted by name. What they have spent
-- is in `spending`, which reads all calls.
create or replace view spanledger_v1.agents with (security_barrier) as
select a.tenant, a.name, a.description, a.first_seen_at, s.sessions, s.last_session_at,
    coalesce((select jsonb_agg(g.permission order by g.permission, g.actor) from spanledger.grants g
        where g.tenant = a.tenant and g.agent = a.name and g.revoked_at is null
            and (g.expires_at is null or g.expires_at > clock_timestamp()) and (g.spec ->> 'allowed')::boolean), '[]')
        as granted
from spanledger.agent a
cross join lateral (
    select count(*) as sessions, max(s.started_at) as last_session_at from spanledger.session s
    where s.tenant = a.tenant and s.agent = a.name) s
where (select spanledger.sees_all())
    or a.tenant in (select m.tenant from spanledger.member m where m.role = session_user);
