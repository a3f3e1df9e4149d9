-- Whether a control asks for something: an approval or a permission is needed, or calls are stopped.
create or replace function spanledger.is_active(p_kind text, p_item jsonb)
returns boolean
language plpgsql immutable
as $$
begin
    return case p_kind when 'approval' then p_item -> 'approval' not in ('false', 'null')
        when 'permission' then p_item -> 'permission' <> 'null'
        else not (p_item ->> 'allowed')::boolean end;
end
$$;
