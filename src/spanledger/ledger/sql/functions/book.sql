-- Book a call on its accounts: take amounts off what is held, count them as spent, or both. A unit the caller gave a
-- cost for is spent at that cost, in another currency at the rate of the reservation, every other at the amount. Calls
-- count as they are. What was spent beyond a limit is kept in history.
create or replace function spanledger.book(
    p_call spanledger.call, p_amounts bigint[], p_cost jsonb, p_release boolean, p_spend boolean)
returns void
language plpgsql volatile
as $$
begin
    if p_call.accounts = '{}' or p_amounts = '{}' then
        return;
    end if;
    perform spanledger.book_many(p_call.tenant, jsonb_build_array(jsonb_build_object(
        'key', encode(p_call.key, 'hex'), 'accounts', p_call.accounts, 'amounts', p_amounts, 'units', p_call.units,
        'cost', case when p_spend or p_cost <> '{}' then coalesce(p_cost, '{}') end,
        'spend', p_spend, 'release', p_release, 'at', p_call.started_at)));
end
$$;
