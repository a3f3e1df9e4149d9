-- What a booking spends of a budget in this unit, of which the call had reserved an amount. Never less than nothing: who
-- may tell what a call cost shall not fill a budget up.
create or replace function spanledger.spent_of(p_tenant text, p_booking jsonb, p_unit text, p_amount bigint)
returns bigint
language plpgsql stable
as $$
declare
    v_otherwise bigint := case when (p_booking -> 'spend')::boolean then p_amount else 0 end;
begin
    if p_unit = 'calls' or coalesce(p_booking -> 'cost', '{}') in ('{}', 'null') then
        return v_otherwise;
    end if;
    return greatest(0, coalesce(
        spanledger.amount_in(p_tenant, p_booking -> 'cost', p_unit, (p_booking ->> 'at')::timestamptz), v_otherwise));
end
$$;
