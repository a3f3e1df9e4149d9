-- What happened to calls beyond what their row shows now.
create or replace view spanledger_v1.history with (security_barrier) as
select h.tenant, h.id, encode(h.key, 'hex') as key, h.at, h.event, h.attempt, h.attempt_id, h.by_name, h.by_role, h.detail
from spanledger.history h
where (select spanledger.sees_all())
    or h.tenant in (select m.tenant from spanledger.member m where m.role = session_user);
