-- Read a result that was handed in, and say how its case was judged; `spanledger_v1.eval_submit` says what a result is.
create or replace function spanledger.read_submitted(p_run spanledger.eval_run, p_item jsonb, p_passes_at double precision)
returns spanledger.eval_result
language plpgsql stable
as $$
declare
    v_passed boolean := (p_item ->> 'passed')::boolean;
    v_error jsonb := nullif(p_item -> 'error', 'null');
    v_new spanledger.eval_result;
begin
    perform spanledger.check_result(p_item);
    v_new := jsonb_populate_record(v_new, p_item - '{error,output,at}'::text[]);
    v_new.tenant := p_run.tenant;
    v_new.run_id := p_run.id;
    v_new.evaluator := coalesce(v_new.evaluator, 'submitted');
    v_new.weight := coalesce(v_new.weight, 1);
    v_new.tags := coalesce(v_new.tags, '{}');
    v_new.output := left(coalesce(p_item ->> 'output_json', nullif(p_item -> 'output', 'null')::text), 100001);
    v_new.metadata := nullif(v_new.metadata, 'null');
    v_new.at := clock_timestamp();
    v_new.error := case jsonb_typeof(v_error) when 'object' then v_error
        when 'string' then jsonb_build_object('type', 'error', 'message', v_error) end;
    if v_error is not null and v_new.error is null then
        raise exception 'an error is a text, or an object of type and message' using errcode = 'data_exception';
    end if;
    v_new.outcome := case when v_passed then 'passed' when not v_passed then 'failed'
        when v_error is not null and p_item ->> 'evaluator' is not null then 'error' when v_error is not null then 'failed'
        when v_new.score >= p_passes_at then 'passed' when v_new.score < p_passes_at then 'failed' end;
    if v_new.outcome is null then
        raise exception 'a result says whether it passed, or has an error, or a score where passes_at says what passes'
            using errcode = 'data_exception';
    end if;
    v_new.label := case when v_new.outcome <> 'error' then
        coalesce(v_new.label, case v_new.outcome when 'passed' then 'pass' else 'fail' end) end;
    return v_new;
end
$$;
