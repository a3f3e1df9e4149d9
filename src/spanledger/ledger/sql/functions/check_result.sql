-- Refuse what cannot be kept of a case and who judged it; the same bounds are in `core/figures.py`.
create or replace function spanledger.check_result(p_item jsonb)
returns void
language plpgsql immutable
as $$
begin
    if coalesce(btrim(p_item ->> 'case_id'), '') = '' then
        raise exception 'a result says by case_id of which case it is' using errcode = 'data_exception';
    end if;
    -- Together they fit the index.
    if octet_length(p_item ->> 'case_id') > 1000 or octet_length(p_item ->> 'evaluator') > 500 then
        raise exception 'a case_id has at most 1000 bytes, and the name of an evaluator 500'
            using errcode = 'data_exception';
    end if;
    -- NaN is more than any number.
    if abs((p_item ->> 'score')::double precision) > 1e15 then
        raise exception 'a score is a finite number of at most 1e15 in size' using errcode = 'data_exception';
    end if;
    if (p_item ->> 'weight')::double precision not between 1e-15 and 1e15 then
        raise exception 'a weight is more than 0, and between 1e-15 and 1e15' using errcode = 'data_exception';
    end if;
    if (p_item ->> 'duration_s')::double precision not between 0 and 1e15 then
        raise exception 'a duration is a finite number of seconds, not less than 0' using errcode = 'data_exception';
    end if;
end
$$;
