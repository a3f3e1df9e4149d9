-- What a call cost in a currency for which the ledger has no rate to this one, as {currency: steps}; null where there is
-- nothing of the kind. It is asked where the cost does not say it in this one.
create or replace function spanledger.unconverted(p_tenant text, p_booking jsonb, p_unit text)
returns jsonb
language plpgsql stable
as $$
declare
    v_cost jsonb := p_booking -> 'cost';
    v_currency text := spanledger.currency_of(v_cost);
begin
    if (v_cost ->> v_currency)::bigint > 0
        and spanledger.amount_in(p_tenant, v_cost, p_unit, (p_booking ->> 'at')::timestamptz) is null then
        return jsonb_build_object(v_currency, v_cost -> v_currency);
    end if;
    return null;
end
$$;
