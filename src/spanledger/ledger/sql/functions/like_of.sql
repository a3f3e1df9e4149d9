-- A match, in which * stands for any text, as a pattern of LIKE.
create or replace function spanledger.like_of(p_match text)
returns text
language plpgsql immutable
as $$
begin
    return replace(replace(replace(replace(p_match, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%');
end
$$;
