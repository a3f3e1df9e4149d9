-- Which accounts the calls of these items, and past attempts at them that the items are about, have reserved from.
create or replace function spanledger.bookable(p_tenant text, p_items jsonb)
returns setof bigint
language plpgsql stable
as $$
begin
    return query
        select unnest(c.accounts) from spanledger.call c
            join jsonb_array_elements(p_items) item on c.key = decode(item ->> 'key', 'hex')
            where c.tenant = p_tenant
        union all
        select jsonb_array_elements_text(h.detail -> 'accounts')::bigint from spanledger.history h
            join jsonb_array_elements(p_items) item on h.key = decode(item ->> 'key', 'hex')
                and h.attempt_id = (item ->> 'attempt_id')::uuid
            where h.tenant = p_tenant and h.event = 'superseded';
end
$$;
