-- Runs of suites. A case passes where everybody who judged it says so; one that nobody could judge counts for neither. A
-- run whose process has given no sign of life is interrupted before anybody asks.
create or replace view spanledger_v1.eval_runs with (security_barrier) as
select
    r.tenant, r.id, r.suite, r.suite_version, r.agent,
    case when r.state = 'running' and r.alive_until <= clock_timestamp() then 'interrupted' else r.state end as state,
    r.cases, c.passed, c.failed, c.errors, c.passed::double precision / nullif(c.passed + c.failed, 0) as pass_rate,
    r.started_at, r.ended_at, r.alive_until, r.by_role
from spanledger.eval_run r
cross join lateral (
    select count(*) filter (where j.outcome = 'passed') as passed, count(*) filter (where j.outcome = 'failed') as failed,
        count(*) filter (where j.outcome = 'error') as errors
    from (
        select case when bool_or(e.outcome = 'failed') then 'failed' when bool_or(e.outcome = 'error') then 'error'
            else 'passed' end as outcome
        from spanledger.eval_result e where e.tenant = r.tenant and e.run_id = r.id
        group by e.case_id) j) c
where (select spanledger.sees_all())
    or r.tenant in (select m.tenant from spanledger.member m where m.role = session_user);
