-- Take what a call holds off its accounts, and book what it cost. `p_spend` false: only take it off.
-- A unit the caller gave a cost for is booked at that cost, every other at what was reserved. Calls count as held.
create or replace function spanledger.release(p_accounts bigint[], p_held bigint[], p_cost jsonb, p_spend boolean)
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
        held = a.held - h.amount,
        spent = a.spent + case
            when b.unit <> 'calls' and p_cost ? b.unit then (p_cost ->> b.unit)::bigint
            when p_spend then h.amount
            else 0 end
        from unnest(p_accounts, p_held) h (id, amount), spanledger.budget b
        where a.id = h.id and b.tenant = a.tenant and b.name = a.budget;
end
$$;
