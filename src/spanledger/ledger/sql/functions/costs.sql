-- What an attempt has cost, as {unit: steps}: what was said, and for tokens and money of which nothing was said, what
-- was reserved. In one currency, because what was reserved from budgets in several is the same money. The cost for the
-- planner is what it is: by the usual one, a sum over many calls was compiled for as long as it then took.
create or replace function spanledger.costs(p_cost jsonb, p_units text[], p_reserved bigint[])
returns jsonb
language plpgsql immutable cost 10
as $$
declare
    v_costs jsonb := coalesce(p_cost, '{}') - 'calls';
    v_i integer;
begin
    for v_i in 1 .. coalesce(cardinality(p_units), 0) loop
        if p_units[v_i] <> 'calls' and not v_costs ? p_units[v_i]
            and (p_units[v_i] = 'tokens' or v_costs - 'tokens' = '{}') then
            v_costs := v_costs || jsonb_build_object(p_units[v_i], p_reserved[v_i]);
        end if;
    end loop;
    return v_costs;
end
$$;
