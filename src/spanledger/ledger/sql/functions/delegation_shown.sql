-- A delegation as its token says it: what it permits until when, and the whole chain.
create or replace function spanledger.delegation_shown(p_tenant text, p_delegation spanledger.delegation)
returns jsonb
language plpgsql stable
as $$
begin
    return jsonb_build_object('id', p_delegation.id, 'agent', p_delegation.to_agent, 'actor', p_delegation.actor,
        'permissions', p_delegation.permissions, 'expires_at_s', extract(epoch from p_delegation.expires_at),
        'max', case when p_delegation.unit is not null then
            jsonb_build_object('unit', p_delegation.unit, 'steps', p_delegation.max_steps) end,
        'chain', p_delegation.chain, 'agents', (
            select jsonb_build_array(min(d.by_agent) filter (where l.n = 1)) || jsonb_agg(d.to_agent order by l.n)
            from unnest(p_delegation.chain) with ordinality l (id, n)
            join spanledger.delegation d on d.tenant = p_tenant and d.id = l.id));
end
$$;
