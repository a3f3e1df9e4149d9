-- Which calls the switches, permissions and budgets of a tenant may be about, those of tools aside: [{match, operations}, …],
-- for programs that ask about a model call only where something is. In doubt one is told: it is `begin` that decides.
-- Every item is answered alike. Of more than a thousand matches it is said that they are about everything.
create or replace function spanledger_v1.controlled(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_matches_max constant int := 1000;
    v_found jsonb;
begin
    perform spanledger.require(p_tenant, 'controlled');
    select coalesce(jsonb_agg(distinct jsonb_build_object('match', s.match, 'operations', s.operations)), '[]')
        into v_found
        from (
            select c.match, null::text[] as operations from spanledger.control c
                where c.tenant = p_tenant and c.active and c.kind in ('switch', 'permission')
            union all
            -- What is delegated is kept under budgets of no operation, and asked about in any case.
            select b.match, b.operations from spanledger.budget b
                where b.tenant = p_tenant and (b.operations is null or not b.operations <@ '{execute_tool}')
        ) s;
    if jsonb_array_length(v_found) > v_matches_max then
        v_found := '[{"match": "*", "operations": null}]';
    end if;
    return (select jsonb_agg(v_found) from jsonb_array_elements(p_items));
end
$$;
