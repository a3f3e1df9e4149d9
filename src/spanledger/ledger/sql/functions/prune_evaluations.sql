-- Runs of evaluations that had ended before this, each with all of its results.
create or replace function spanledger.prune_evaluations(p_tenant text, p_before timestamptz, p_rows_max integer)
returns jsonb
language plpgsql volatile
as $$
declare
    v_runs text[] := array(
        select r.id from spanledger.over_eval_runs r where r.tenant = p_tenant and r.over_at < p_before
        order by r.over_at limit greatest(1, p_rows_max / 50) for update skip locked);
begin
    delete from spanledger.eval_result e where e.tenant = p_tenant and e.run_id = any (v_runs);
    delete from spanledger.eval_run r where r.tenant = p_tenant and r.id = any (v_runs);
    return jsonb_build_object('evaluations', cardinality(v_runs))
        || case when cardinality(v_runs) >= greatest(1, p_rows_max / 50) then '{"more": true}'::jsonb else '{}' end;
end
$$;
