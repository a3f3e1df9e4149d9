-- Which accounts items have to reserve from, with the pools of the delegations that they act under: each in the chain is
-- an account of a budget in its unit, `topped_up` by what it may spend.
create or replace function spanledger.pools(p_tenant text, p_items jsonb, p_open integer[], p_wanted jsonb)
returns jsonb
language plpgsql stable
as $$
declare
    v_pools jsonb;
begin
    select jsonb_object_agg(w.i, coalesce(p_wanted -> w.i::text, '[]') || w.accounts) into v_pools
    from (
        select o.i, jsonb_agg(jsonb_build_object(
            'id', a.id, 'head', null, 'budget', a.budget, 'scope', a.scope, 'unit', d.unit, 'limit', 0, 'soft', null,
            'version', 1, 'window_start', a.window_start, 'window_s', null) order by cardinality(d.chain)) as accounts
        from unnest(p_open) o (i)
        cross join lateral spanledger.chain_of(p_tenant, p_items -> (o.i - 1)) d
        join spanledger.account a on a.id = d.account
        group by o.i) w;
    return nullif(coalesce(p_wanted, '{}') || coalesce(v_pools, '{}'), '{}');
end
$$;
