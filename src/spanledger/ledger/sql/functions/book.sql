-- Book amounts on accounts: take them off what is held, count them as spent, or both.
-- A unit the caller gave a cost for is spent at that cost, every other at the amount. Calls count as they are.
create or replace function spanledger.book(
    p_accounts bigint[], p_amounts bigint[], p_cost jsonb, p_release boolean, p_spend boolean)
returns void
language plpgsql volatile
as $$
begin
    if p_accounts = '{}' then
        return;
    end if;
    if array_length(p_accounts, 1) > 1 then
        perform from spanledger.account a where a.id = any (p_accounts) order by a.id for update;
    end if;
    update spanledger.account a set
        held = a.held - case when p_release then h.amount else 0 end,
        spent = a.spent + case
            when b.unit <> 'calls' and p_cost ? b.unit then (p_cost ->> b.unit)::bigint
            when p_spend then h.amount
            else 0 end
        from unnest(p_accounts, p_amounts) h (id, amount), spanledger.budget b
        where a.id = h.id and b.tenant = a.tenant and b.name = a.budget;
end
$$;
