-- How every budget stands. Steps are millionths of a currency, or single tokens or calls.
create or replace view spanledger_v1.budgets with (security_barrier) as
select b.* from spanledger.balance b
where (select spanledger.sees_all())
    or b.tenant in (select m.tenant from spanledger.member m where m.role = session_user);
