-- A tool's name as frameworks spell it for models: with an underscore for what is no letter and no digit.
create or replace function spanledger.spoken(p_tool text)
returns text
language sql immutable
as $$
    select btrim(regexp_replace(p_tool, '[^0-9A-Za-z]', '_', 'g'), '_')
$$;
