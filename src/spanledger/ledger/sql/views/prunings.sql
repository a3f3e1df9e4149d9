-- Of what, and until when, what was over has been pruned.
create or replace view spanledger_v1.prunings with (security_barrier) as
select p.tenant, p.part, p.before, p.forgot_keys, p.pruned_at, p.by_name, p.by_role
from spanledger.pruning p
where (select spanledger.sees_all())
    or p.tenant in (select m.tenant from spanledger.member m where m.role = session_user);
