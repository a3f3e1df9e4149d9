-- Let nobody else begin these calls meanwhile; a call that is not there yet has no row to lock.
create or replace function spanledger.lock_claims(p_tenant text, p_items jsonb, p_open integer[])
returns void
language plpgsql volatile
as $$
begin
    if array_length(p_open, 1) = 1 then
        perform pg_advisory_xact_lock(hashtextextended(p_tenant || (p_items -> (p_open[1] - 1) ->> 'key'), 0));
        return;
    end if;
    perform pg_advisory_xact_lock(claim.hash)
        from (select distinct hashtextextended(p_tenant || (p_items -> (o.i - 1) ->> 'key'), 0) as hash
            from unnest(p_open) o (i) order by 1) claim;
end
$$;
