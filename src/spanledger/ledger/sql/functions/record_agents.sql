-- Agents are known from when they are first heard of.
create or replace function spanledger.record_agents(p_tenant text, p_items jsonb, p_now timestamptz)
returns void
language plpgsql volatile
as $$
begin
    insert into spanledger.agent (tenant, name, first_seen_at)
        select distinct p_tenant, item ->> 'agent', p_now from jsonb_array_elements(p_items) item
        where item ->> 'agent' <> '' and not exists (
            select from spanledger.agent a where a.tenant = p_tenant and a.name = item ->> 'agent')
        order by 2
        on conflict (tenant, name) do nothing;
end
$$;
