-- An amount in another currency, rounded up, at the rate that was in force and known at that time; null without one.
-- What is beyond counting is more than every limit.
create or replace function spanledger.convert(
    p_tenant text, p_steps bigint, p_from text, p_to text, p_at timestamptz)
returns bigint
language plpgsql stable
as $$
begin
    return (select least(ceil(p_steps * r.rate), 1000000000000000000)::bigint from spanledger.rate r
        where r.tenant = p_tenant and r.from_unit = p_from and r.to_unit = p_to
            and r.valid_from <= p_at and r.applied_at <= p_at
        order by r.valid_from desc, r.applied_at desc limit 1);
end
$$;
