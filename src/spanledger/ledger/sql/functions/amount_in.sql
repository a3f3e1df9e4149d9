-- What an item reserves, or what a call cost, in the unit of a budget: given in it, or converted from another currency.
-- Null where it says nothing in that unit, or the ledger has no rate for it. Nothing costs less than nothing: it would
-- give others room.
create or replace function spanledger.amount_in(p_tenant text, p_amounts jsonb, p_unit text, p_at timestamptz)
returns bigint
language plpgsql stable
as $$
declare
    v_currency text;
    v_amount bigint := (p_amounts ->> p_unit)::bigint;
begin
    if p_amounts ? p_unit then
        return case when v_amount < 0 then 0 else v_amount end;
    elsif p_unit in ('calls', 'tokens') or p_amounts is null then
        return null;
    end if;
    v_currency := spanledger.currency_of(p_amounts);
    if v_currency is null then
        return null;
    end if;
    return spanledger.convert(p_tenant, greatest(0, (p_amounts ->> v_currency)::bigint), v_currency, p_unit, p_at);
end
$$;
