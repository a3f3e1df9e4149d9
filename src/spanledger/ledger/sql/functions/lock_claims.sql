-- Let nobody else begin these calls meanwhile; a call that is not there yet has no row to lock.
create or replace function spanledger.lock_claims(p_tenant text, p_items jsonb, p_open integer[])
returns void
language plpgsql volatile
as $$
begin
    perform pg_advisory_xact_lock(claim.hash)
        from (select distinct spanledger.claim_of(p_tenant, p_items -> (o.i - 1) ->> 'key') as hash
            from unnest(p_open) o (i) order by 1) claim;
end
$$;
