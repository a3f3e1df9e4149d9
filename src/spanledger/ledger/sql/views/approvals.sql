-- Requests for a person's consent, as people and programs read them; one whose time is over shows as expired.
create or replace view spanledger_v1.approvals with (security_barrier) as
select
    a.tenant, a.id, encode(a.key, 'hex') as key, encode(a.fingerprint, 'hex') as fingerprint,
    case when a.state = 'pending' and a.expires_at <= clock_timestamp() then 'expired' else a.state end as state,
    a.tool, a.workflow_id, a.agent, a.actor, a.arguments, a.reserve, a.rule, a.control, a.requested_at, a.expires_at,
    a.decided_at, a.by_name, a.by_role, a.note, a.consumed_at, a.consumed_by, a.trace_id, a.span_id
from spanledger.approval a
where (select spanledger.sees_all())
    or a.tenant in (select m.tenant from spanledger.member m where m.role = session_user);
