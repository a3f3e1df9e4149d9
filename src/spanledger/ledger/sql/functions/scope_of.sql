-- Whose account of a budget a call belongs to, as canonical JSON text; '' where the budget is not kept apart.
create or replace function spanledger.scope_of(p_per text[], p_item jsonb)
returns text
language plpgsql immutable
as $$
begin
    if p_per = '{}' then
        return '';
    end if;
    return (select jsonb_object_agg(dimension, case dimension
            when 'tool' then case when p_item ->> 'operation' = 'execute_tool' then p_item -> 'tool' end
            when 'model' then case when p_item ->> 'operation' <> 'execute_tool' then p_item -> 'tool' end
            -- In no workflow is in none, whether it is said with nothing, a null or an empty text.
            when 'workflow' then coalesce(nullif(p_item -> 'workflow', '""'), nullif(p_item -> 'workflow_id', '""'))
            else p_item -> dimension end)
        from unnest(p_per) dimension)::text;
end
$$;
