-- A JSON array of texts as an array; empty where there is none.
create or replace function spanledger.texts(p_array jsonb)
returns text[]
language plpgsql immutable
as $$
begin
    if p_array is null then
        return '{}';
    end if;
    return array(select jsonb_array_elements_text(p_array));
end
$$;
