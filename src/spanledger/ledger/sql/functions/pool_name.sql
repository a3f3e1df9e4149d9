-- The budget that keeps what delegations in a unit may spend. It covers no call by its match.
create or replace function spanledger.pool_name(p_unit text)
returns text
language plpgsql immutable
as $$
begin
    return 'delegated ' || p_unit;
end
$$;
