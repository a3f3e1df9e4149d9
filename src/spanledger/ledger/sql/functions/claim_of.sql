-- The number of the lock of a claim: of a call that may not be there yet.
create or replace function spanledger.claim_of(p_tenant text, p_key text)
returns bigint
language sql immutable
as $$
    select hashtextextended(p_tenant || p_key, 0)
$$;
