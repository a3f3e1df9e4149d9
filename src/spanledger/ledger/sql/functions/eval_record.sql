-- Keep how cases were judged, and that their run is alive: {id, runner, lease_s, results, state}. What was kept stays: a
-- case that is told again is kept once. At most 500 at once. With a state, the run has ended: 'completed' or 'interrupted'. Owned is false
-- where another process has taken the run over, or it has ended; nothing is kept then.
create or replace function spanledger_v1.eval_record(p_tenant text, p_item jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_results jsonb := coalesce(nullif(p_item -> 'results', 'null'), '[]');
    v_run spanledger.eval_run;
begin
    perform spanledger.require(p_tenant, 'eval_record');
    perform spanledger.check_eval_run(p_item);
    select * into v_run from spanledger.eval_run r where r.tenant = p_tenant and r.id = p_item ->> 'id' for update;
    if not found then
        return '{"owned": false}';
    end if;
    perform spanledger.own_eval(v_run);
    if v_run.runner <> (p_item ->> 'runner')::uuid or v_run.state <> 'running' then
        return jsonb_build_object('owned', v_run.runner = (p_item ->> 'runner')::uuid
            and v_run.state = coalesce(p_item ->> 'state', ''));
    end if;
    perform spanledger.check_result(e.item) from jsonb_array_elements(v_results) e (item);
    insert into spanledger.eval_result (tenant, run_id, case_id, evaluator, outcome, score, label, explanation, error,
        output, trace_id, span_id, duration_s, weight, tags, at)
    select p_tenant, v_run.id, e.case_id, coalesce(e.evaluator, ''), e.outcome, e.score, e.label, e.explanation, e.error,
        left(e.output, 100001), e.trace_id, e.span_id, e.duration_s, coalesce(e.weight, 1), coalesce(e.tags, '{}'), v_now
    from jsonb_to_recordset(v_results) e (case_id text, evaluator text, outcome text,
        score double precision, label text, explanation text, error jsonb, output text, trace_id text, span_id text,
        duration_s double precision, weight double precision, tags text[])
    on conflict (tenant, run_id, case_id, evaluator) do nothing;
    update spanledger.eval_run r set
        alive_until = v_now + make_interval(secs => (p_item ->> 'lease_s')::double precision),
        state = coalesce(p_item ->> 'state', r.state), ended_at = case when p_item ->> 'state' is not null then v_now end
        where r.tenant = p_tenant and r.id = v_run.id;
    return '{"owned": true}';
end
$$;
