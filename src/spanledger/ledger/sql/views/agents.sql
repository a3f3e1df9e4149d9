-- Agents that the ledger has heard of, with their sessions, by version and environment as well where these were said, and
-- what they have been granted by name. What they have spent
-- is in `spending`, which reads all calls.
create or replace view spanledger_v1.agents with (security_barrier) as
select a.tenant, a.name, a.description, a.first_seen_at, s.sessions, s.last_session_at,
    coalesce((select jsonb_agg(g.permission order by g.permission, g.actor) from spanledger.grants g
        where g.tenant = a.tenant and g.agent = a.name and g.revoked_at is null
            and (g.expires_at is null or g.expires_at > clock_timestamp()) and (g.spec ->> 'allowed')::boolean), '[]')
        as granted, d.versions
from spanledger.agent a
cross join lateral (
    select count(*) as sessions, max(s.started_at) as last_session_at from spanledger.session s
    where s.tenant = a.tenant and s.agent = a.name) s
cross join lateral (
    select coalesce(jsonb_agg(jsonb_build_object('agent_version', v.agent_version, 'environment', v.environment,
        'sessions', v.sessions, 'last_session_at', v.last_at) order by v.last_at desc), '[]') as versions
    from (
        select r.agent_version, r.environment, count(distinct s.id) as sessions, max(r.started_at) as last_at
        from spanledger.session s
        join spanledger.run r on r.tenant = s.tenant and r.session_id = s.id and r.kind = 'session' and r.agent = a.name
        where s.tenant = a.tenant and s.agent = a.name and (r.agent_version is not null or r.environment is not null)
        group by r.agent_version, r.environment) v) d
where (select spanledger.sees_all())
    or a.tenant in (select m.tenant from spanledger.member m where m.role = session_user);
