-- What an operator says about calls besides budgets, and the rates of currencies.
create or replace view spanledger_v1.controls as
select c.tenant, c.kind, c.match, c.spec, c.version, c.applied_at, c.applied_by
from spanledger.control c
where (select spanledger.sees_all())
    or c.tenant in (select m.tenant from spanledger.member m where m.role = session_user)
union all
select r.tenant, 'rate', r.from_unit || ' ' || r.to_unit, jsonb_build_object('rate', r.rate::text, 'valid_from', r.valid_from),
    1, r.applied_at, r.applied_by
from spanledger.rate r
where (select spanledger.sees_all())
    or r.tenant in (select m.tenant from spanledger.member m where m.role = session_user);
