-- Lock the calls of these items, by key. Each is looked up by itself, in that order: the planner would take a table of a
-- few thousand calls to be read faster as a whole.
create or replace function spanledger.lock_calls(p_tenant text, p_items jsonb)
returns void
language plpgsql volatile
as $$
begin
    perform from (
        select distinct decode(item ->> 'key', 'hex') as key from jsonb_array_elements(p_items) item order by 1
    ) i cross join lateral (
        select from spanledger.call c where c.tenant = p_tenant and c.key = i.key for update) c;
end
$$;
