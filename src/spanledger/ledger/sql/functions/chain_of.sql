-- The delegations that an item acts under, the first of the chain first; none where its bearer shows the wrong proof.
create or replace function spanledger.chain_of(p_tenant text, p_item jsonb)
returns setof spanledger.delegation
language plpgsql stable
as $$
declare
    v_chain uuid[] := (
        select d.chain from spanledger.delegation d
        where d.tenant = p_tenant and d.id = (p_item #>> '{delegation,id}')::uuid
            and d.proof = sha256(convert_to(p_item #>> '{delegation,proof}', 'UTF8')));
begin
    return query select d.* from unnest(v_chain) with ordinality l (id, n)
        join spanledger.delegation d on d.tenant = p_tenant and d.id = l.id order by l.n;
end
$$;
