-- A delegation as people call it.
create or replace function spanledger.delegation_name(p_delegation spanledger.delegation)
returns text
language plpgsql immutable
as $$
begin
    return format('delegation %s to agent %s', left(p_delegation.id::text, 8), p_delegation.to_agent);
end
$$;
