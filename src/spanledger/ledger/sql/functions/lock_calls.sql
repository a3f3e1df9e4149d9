-- Lock the calls of these items, by key.
create or replace function spanledger.lock_calls(p_tenant text, p_items jsonb)
returns void
language plpgsql volatile
as $$
begin
    perform from spanledger.call c
        where c.tenant = p_tenant
            and c.key in (select decode(item ->> 'key', 'hex') from jsonb_array_elements(p_items) item)
        order by c.key for update;
end
$$;
