-- How every budget stands. Steps are millionths of a currency, or single tokens or calls.
create or replace view spanledger_v1.budgets as
select
    b.tenant, b.name, b.unit, b.match, b.operations, b.version, a.scope, a.window_start,
    b.limit_steps + a.topped_up as limit_steps, a.spent as spent_steps, a.held as held_steps,
    b.limit_steps + a.topped_up - a.spent - a.held as remaining_steps
from spanledger.budget b
join spanledger.account a on a.tenant = b.tenant and a.budget = b.name
where (select spanledger.sees_all())
    or b.tenant in (select m.tenant from spanledger.member m where m.role = session_user);
