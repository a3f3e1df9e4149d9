-- What an operator says about calls besides budgets, and the rates of currencies. The tenants are looked at above the
-- union, because the planner takes a union apart and the barrier with it.
create or replace view spanledger_v1.controls with (security_barrier) as
select v.tenant, v.kind, v.match, v.spec, v.version, v.applied_at, v.applied_by,
    v.except_like
from (
    select c.tenant, c.kind, c.match, c.spec, c.version, c.applied_at, c.applied_by, c.except_like
    from spanledger.control c
    union all
    select r.tenant, 'rate', r.from_unit || ' ' || r.to_unit,
        jsonb_build_object('rate', r.rate::text, 'valid_from', r.valid_from), 1, r.applied_at, r.applied_by,
        '{}'::text[]
    from spanledger.rate r
) v
where (select spanledger.sees_all())
    or v.tenant in (select m.tenant from spanledger.member m where m.role = session_user);
