-- The grants that are in force for these agents and actors, an item is {agent, actor}: for programs that show what may be
-- done, and decide nothing. With `delegation`, those of the agent at the beginning of its chain; none where it is no
-- longer in force. `at_s` is the second of the day in UTC, by which programs tell whether it is in its `hours` by now.
create or replace function spanledger_v1.permissions(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform spanledger.require(p_tenant, 'permissions');
    return (
        select jsonb_agg(coalesce((
            select jsonb_agg(jsonb_build_object('permission', g.permission, 'agent', nullif(g.agent, ''),
                'actor', nullif(g.actor, ''), 'allowed', g.spec -> 'allowed',
                'left_s', extract(epoch from g.expires_at - clock_timestamp()), 'hours', g.spec -> 'hours',
                'at_s', extract(epoch from clock_timestamp()) % 86400))
            from spanledger.grants g
            where g.tenant = p_tenant and g.revoked_at is null
                and (g.expires_at is null or g.expires_at > clock_timestamp())
                and spanledger.delegation_refusal(p_tenant, i.item, clock_timestamp()) is null
                and g.agent in ('', w.agent) and g.actor in ('', i.item ->> 'actor')), '[]') order by i.n)
        from jsonb_array_elements(p_items) with ordinality i (item, n)
        cross join lateral (select case when i.item ? 'delegation' then (
            select d.by_agent from spanledger.chain_of(p_tenant, i.item) d limit 1) else i.item ->> 'agent' end as agent) w);
end
$$;
