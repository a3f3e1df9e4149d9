-- Hand in results of a run that was made elsewhere, in any language: {id, suite, suite_version, agent, agent_version,
-- environment, cases, passes_at, open_s, results, complete}. The first to name a run begins it, and what is left out is as
-- it was said first. A result is {case_id, evaluator, passed, score, label, explanation, error, output, weight, tags,
-- duration_s, tokens, metadata, trace_id, span_id}, at most 500 at once: it says `passed`, or has a score that is compared with `passes_at`, or
-- an error; an error of a named evaluator is one of theirs. `output` is any JSON, or `output_json` its text. What was kept stays: of a case and an evaluator, the first
-- result. One that is no result is rejected, and costs no other. `complete` ends the run, which then takes no case more.
-- Answers {suite, state, ended, kept: [{n, outcome, label}], known, rejected: [{n, why}]}, with n the place in `results` from 0.
-- `ended`: by this very call. Where the run is of something else, state is 'changed' and nothing is kept.
create or replace function spanledger_v1.eval_submit(p_tenant text, p_item jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_until timestamptz := v_now + make_interval(secs => coalesce((p_item ->> 'open_s')::double precision, 86400));
    v_complete boolean := coalesce((p_item ->> 'complete')::boolean, false);
    v_said jsonb := jsonb_strip_nulls(jsonb_build_object('suite', p_item -> 'suite',
        'suite_version', p_item -> 'suite_version', 'agent', p_item -> 'agent', 'agent_version', p_item -> 'agent_version',
        'environment', p_item -> 'environment'));
    v_run spanledger.eval_run;
    v_answer jsonb;
begin
    perform spanledger.require(p_tenant, 'eval_submit');
    perform spanledger.check_eval_run(p_item);
    insert into spanledger.eval_run (tenant, id, suite, suite_version, cases, agent, agent_version, environment, state,
            runner, alive_until, started_at, elsewhere)
        select p_tenant, p_item ->> 'id', p_item ->> 'suite', coalesce(p_item ->> 'suite_version', ''),
            (p_item ->> 'cases')::integer, p_item ->> 'agent', p_item ->> 'agent_version', p_item ->> 'environment',
            'running', gen_random_uuid(), v_until, v_now, true
        where v_said ? 'suite'
        on conflict (tenant, id) do nothing;
    select * into v_run from spanledger.eval_run r where r.tenant = p_tenant and r.id = p_item ->> 'id' for update;
    if not found then
        raise exception 'there is no run % of evaluations: who begins it says of which suite it is', p_item ->> 'id'
            using errcode = 'SL001';
    end if;
    perform spanledger.own_eval(v_run);
    if not v_run.elsewhere or not to_jsonb(v_run) @> v_said then
        return jsonb_build_object('state', 'changed', 'elsewhere', v_run.elsewhere, 'suite', v_run.suite,
            'suite_version', v_run.suite_version, 'agent', v_run.agent, 'agent_version', v_run.agent_version,
            'environment', v_run.environment);
    end if;
    v_answer := spanledger.keep_submitted(
        v_run, coalesce(nullif(p_item -> 'results', 'null'), '[]'), (p_item ->> 'passes_at')::double precision);
    if v_run.state <> 'completed' then
        update spanledger.eval_run r set
            state = case when v_complete then 'completed' else 'running' end, alive_until = v_until,
            cases = coalesce((p_item ->> 'cases')::integer, r.cases), ended_at = case when v_complete then v_now end
            where r.tenant = p_tenant and r.id = v_run.id;
    end if;
    return v_answer || jsonb_build_object('suite', v_run.suite, 'ended', v_complete and v_run.state <> 'completed',
        'state', case when v_complete or v_run.state = 'completed' then 'completed' else 'running' end);
end
$$;
