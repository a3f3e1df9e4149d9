-- Lock the calls of these items, by key. One after the other: the planner would take a table of a few thousand calls to
-- be read faster as a whole.
create or replace function spanledger.lock_calls(p_tenant text, p_items jsonb)
returns void
language plpgsql volatile
as $$
declare
    v_key bytea;
begin
    for v_key in select distinct decode(item ->> 'key', 'hex') from jsonb_array_elements(p_items) item order by 1 loop
        perform from spanledger.call c where c.tenant = p_tenant and c.key = v_key for update;
    end loop;
end
$$;
