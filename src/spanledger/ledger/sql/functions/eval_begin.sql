-- Run a suite, or go on with a run that was interrupted: {id, suite, suite_version, cases, agent, agent_version,
-- environment, runner, lease_s}. Asked again by the same runner it is the same answer: {state, done, suite_version,
-- left_s}; `done` are the ids of the cases that have been judged.
create or replace function spanledger_v1.eval_begin(p_tenant text, p_item jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_alive_until timestamptz := v_now + make_interval(secs => (p_item ->> 'lease_s')::double precision);
    v_runner uuid := (p_item ->> 'runner')::uuid;
    v_run spanledger.eval_run;
begin
    perform spanledger.require(p_tenant, 'eval_begin');
    perform spanledger.check_eval_run(p_item);
    insert into spanledger.eval_run (tenant, id, suite, suite_version, cases, agent, agent_version, environment, state,
            runner, alive_until, started_at)
        values (p_tenant, p_item ->> 'id', p_item ->> 'suite', p_item ->> 'suite_version', (p_item ->> 'cases')::integer,
            p_item ->> 'agent', p_item ->> 'agent_version', p_item ->> 'environment', 'running', v_runner, v_alive_until,
            v_now)
        on conflict (tenant, id) do nothing;
    select * into v_run from spanledger.eval_run r where r.tenant = p_tenant and r.id = p_item ->> 'id' for update;
    perform spanledger.own_eval(v_run);
    if v_run.elsewhere
        or (v_run.suite, v_run.suite_version) is distinct from (p_item ->> 'suite', p_item ->> 'suite_version') then
        return jsonb_build_object('state', 'changed', 'suite', v_run.suite, 'suite_version', v_run.suite_version);
    end if;
    if v_run.state = 'running' and v_run.runner <> v_runner and v_run.alive_until > v_now then
        return jsonb_build_object('state', 'running', 'left_s', extract(epoch from v_run.alive_until - v_now));
    end if;
    if v_run.state <> 'completed' then
        update spanledger.eval_run r set state = 'running', runner = v_runner, alive_until = v_alive_until, ended_at = null
            where r.tenant = p_tenant and r.id = v_run.id;
    end if;
    return jsonb_build_object('state', case v_run.state when 'completed' then 'completed' else 'yours' end, 'done', (
        select coalesce(jsonb_agg(distinct e.case_id), '[]') from spanledger.eval_result e
        where e.tenant = p_tenant and e.run_id = v_run.id));
end
$$;
