-- A grant as people call it.
create or replace function spanledger.grant_name(p_permission text, p_agent text, p_actor text)
returns text
language plpgsql immutable
as $$
begin
    return p_permission || case when p_agent <> '' then ' to agent ' || p_agent else '' end
        || case when p_actor <> '' then ' for ' || p_actor else '' end;
end
$$;
