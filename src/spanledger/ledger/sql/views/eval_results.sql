-- How every case of every run was judged, and by whom; without an evaluator, the case itself ended in an error.
create or replace view spanledger_v1.eval_results with (security_barrier) as
select
    e.tenant, e.run_id, r.suite, e.case_id, nullif(e.evaluator, '') as evaluator, e.outcome, e.score, e.label,
    e.explanation, e.error, e.output, e.trace_id, e.span_id, e.duration_s, e.at, e.weight,
    e.tags, e.tokens, e.metadata
from spanledger.eval_result e
join spanledger.eval_run r on r.tenant = e.tenant and r.id = e.run_id
where (select spanledger.sees_all())
    or e.tenant in (select m.tenant from spanledger.member m where m.role = session_user);
