-- A JSON array of whole numbers as an array; empty where there is none.
create or replace function spanledger.numbers(p_array jsonb)
returns bigint[]
language plpgsql immutable
as $$
begin
    if p_array is null then
        return '{}';
    end if;
    return array(select jsonb_array_elements_text(p_array)::bigint);
end
$$;
