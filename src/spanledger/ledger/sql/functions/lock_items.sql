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
        where a.id in (
            select unnest(c.accounts) from spanledger.call c
                join jsonb_array_elements(p_items) item on c.key = decode(item ->> 'key', 'hex')
                where c.tenant = p_tenant
            union all
            select jsonb_array_elements_text(h.detail -> 'accounts')::bigint from spanledger.history h
                join jsonb_array_elements(p_items) item on h.key = decode(item ->> 'key', 'hex')
                    and h.attempt_id = (item ->> 'attempt_id')::uuid
                where h.tenant = p_tenant and h.event = 'superseded')
        order by a.id for update;
end
$$;
