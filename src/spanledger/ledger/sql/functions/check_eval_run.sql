-- Refuse what cannot be said of a run of evaluations; the same bounds are in `core/figures.py`.
create or replace function spanledger.check_eval_run(p_item jsonb)
returns void
language plpgsql immutable
as $$
begin
    -- By each a run is found; together with a case_id, its id fits the index.
    if coalesce(btrim(p_item ->> 'id'), '') = '' or octet_length(p_item ->> 'id') > 500
        or btrim(p_item ->> 'suite') = '' or octet_length(p_item ->> 'suite') > 500 then
        raise exception 'the id of a run of evaluations, and the name of its suite, have 1 to 500 bytes'
            using errcode = 'data_exception';
    end if;
    if greatest(length(p_item ->> 'agent'), length(p_item ->> 'agent_version'), length(p_item ->> 'environment')) > 512 then
        raise exception 'agent, agent_version and environment have at most 512 characters' using errcode = 'data_exception';
    end if;
    if (p_item ->> 'cases')::integer not between 1 and 1000000 then
        raise exception 'a suite has 1 to 1000000 cases' using errcode = 'data_exception';
    end if;
    if jsonb_typeof(p_item -> 'results') not in ('array', 'null') then
        raise exception 'results are a list' using errcode = 'data_exception';
    end if;
    if jsonb_typeof(p_item -> 'results') = 'array' and jsonb_array_length(p_item -> 'results') > 500 then
        raise exception 'at most 500 results are kept at once, not %', jsonb_array_length(p_item -> 'results')
            using errcode = 'data_exception';
    end if;
end
$$;
