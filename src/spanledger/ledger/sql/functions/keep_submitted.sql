-- Keep results that were handed in, each by itself; `spanledger_v1.eval_submit` says what a result is. A run that is
-- completed takes none that it does not have.
create or replace function spanledger.keep_submitted(p_run spanledger.eval_run, p_results jsonb, p_passes_at double precision)
returns jsonb
language plpgsql volatile
as $$
declare
    v_kept jsonb := '[]';
    v_rejected jsonb := '[]';
    v_known integer := 0;
    v_new spanledger.eval_result;
    v_item jsonb;
    v_i bigint;
begin
    for v_i, v_item in select r.i - 1, r.item from jsonb_array_elements(p_results) with ordinality r (item, i) loop
        begin
            v_new := spanledger.read_submitted(p_run, v_item, p_passes_at);
            if exists (
                select from spanledger.eval_result e
                where e.tenant = p_run.tenant and e.run_id = p_run.id and e.case_id = v_new.case_id
                    and e.evaluator = v_new.evaluator) then
                v_known := v_known + 1;
                continue;
            end if;
            if p_run.state = 'completed' then
                raise exception 'the run is completed and takes no more results' using errcode = 'data_exception';
            end if;
            insert into spanledger.eval_result select v_new.*;
            v_kept := v_kept || jsonb_build_object('n', v_i, 'outcome', v_new.outcome, 'label', v_new.label);
        exception when data_exception or integrity_constraint_violation or program_limit_exceeded then
            v_rejected := v_rejected || jsonb_build_object('n', v_i, 'why', sqlerrm);
        end;
    end loop;
    return jsonb_build_object('kept', v_kept, 'known', v_known, 'rejected', v_rejected);
end
$$;
