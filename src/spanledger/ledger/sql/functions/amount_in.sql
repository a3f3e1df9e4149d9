-- What an item reserves, or what a call cost, in the unit of a budget: given in it, or converted from another currency.
-- Null where it says nothing in that unit, or the ledger has no rate for it.
create or replace function spanledger.amount_in(p_tenant text, p_amounts jsonb, p_unit text, p_at timestamptz)
returns bigint
language plpgsql stable
as $$
declare
    v_currency text;
begin
    if p_amounts ? p_unit then
        return (p_amounts ->> p_unit)::bigint;
    elsif p_unit in ('calls', 'tokens') or p_amounts is null then
        return null;
    end if;
    v_currency := spanledger.currency_of(p_amounts);
    if v_currency is null then
        return null;
    end if;
    return spanledger.convert(p_tenant, (p_amounts ->> v_currency)::bigint, v_currency, p_unit, p_at);
end
$$;
