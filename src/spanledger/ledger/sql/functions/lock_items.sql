-- Lock the calls of these items, by key, and then every account they may be booked on, by id; one item alone locks its
-- accounts when it books. Whoever goes on from here must not wait for a call: one that was not there yet may have begun
-- meanwhile, and comes after this.
create or replace function spanledger.lock_items(p_tenant text, p_items jsonb)
returns void
language plpgsql volatile
as $$
begin
    perform spanledger.lock_calls(p_tenant, p_items);
    if jsonb_array_length(p_items) < 2 then
        return;
    end if;
    perform from spanledger.account a
        where a.id in (select spanledger.bookable(p_tenant, p_items))
        order by a.id for update;
end
$$;
