-- The currency among the units of an amount, if there is one.
create or replace function spanledger.currency_of(p_amounts jsonb)
returns text
language plpgsql immutable
as $$
begin
    return (select k from jsonb_object_keys(p_amounts) k where k not in ('calls', 'tokens') limit 1);
end
$$;
