-- Runs of suites. A case passes where everybody who judged it says so; one that nobody could judge counts for neither. The
-- score of a case is the mean of what it was given. Rates and means count each case once, the weighted ones by its weight.
-- A run whose process has given no sign of life, and one elsewhere of which nothing more was handed in, is interrupted
-- before anybody asks. Scores and weights count within the bounds that they are taken in: out of them, one row would
-- overflow the sums of every run.
create or replace view spanledger_v1.eval_runs with (security_barrier) as
select
    r.tenant, r.id, r.suite, r.suite_version, r.agent,
    case when r.state = 'running' and r.alive_until <= clock_timestamp() then 'interrupted' else r.state end as state,
    coalesce(r.cases, c.told)::integer as cases, c.passed, c.failed, c.errors,
    c.passed::double precision / nullif(c.passed + c.failed, 0) as pass_rate,
    r.started_at, r.ended_at, r.alive_until, r.by_role, r.agent_version, r.environment, r.elsewhere,
    c.weight_passed / nullif(c.weight_judged, 0) as weighted_pass_rate, c.mean_score,
    c.weight_scored / nullif(c.weight_scores, 0) as weighted_mean_score
from spanledger.eval_run r
cross join lateral (
    select count(*) as told, count(*) filter (where j.outcome = 'passed') as passed,
        count(*) filter (where j.outcome = 'failed') as failed, count(*) filter (where j.outcome = 'error') as errors,
        coalesce(sum(j.weight) filter (where j.outcome = 'passed'), 0) as weight_passed,
        sum(j.weight) filter (where j.outcome in ('passed', 'failed')) as weight_judged,
        avg(j.score) as mean_score, sum(j.score * j.weight) as weight_scored,
        sum(j.weight) filter (where j.score is not null) as weight_scores
    from (
        select case when bool_or(e.outcome = 'failed') then 'failed' when bool_or(e.outcome = 'error') then 'error'
            else 'passed' end as outcome,
            max(least(greatest(e.weight, 1e-15), 1e15)) as weight,
            avg(case when abs(e.score) >= 1e-100 then least(greatest(e.score, -1e15), 1e15)
                when e.score is not null then 0 end) as score
        from spanledger.eval_result e where e.tenant = r.tenant and e.run_id = r.id
        group by e.case_id) j) c
where (select spanledger.sees_all())
    or r.tenant in (select m.tenant from spanledger.member m where m.role = session_user);
