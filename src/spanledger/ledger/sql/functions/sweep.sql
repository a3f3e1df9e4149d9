-- Take the dead for dead: running calls whose lease is over and who reserved from these accounts, or from older slices
-- of the same rolling windows, a bounded number. A tool's outcome is unknown now, and what it holds stays held. Asking
-- a model changes nothing that somebody would have to find out about: it failed, and what it held is released. Returns
-- how many were released.
create or replace function spanledger.sweep(p_tenant text, p_accounts jsonb, p_now timestamptz)
returns integer
language plpgsql volatile
as $$
declare
    -- Those are locked. Others of the same budgets are if nobody else has them. An array, so that they are looked up by
    -- their ids however small the table is.
    v_ids bigint[] := array(
        select a.id from spanledger.account wanted
        join spanledger.account a on a.tenant = wanted.tenant and a.budget = wanted.budget and a.scope = wanted.scope
        where wanted.id = any (array(select k::bigint from jsonb_object_keys(p_accounts) k))
            and (a.id = wanted.id or a.held > 0)
        for update of a skip locked);
    v_call spanledger.call;
    v_lost spanledger.call[] := '{}';
begin
    for v_call in
        -- Only accounts that are locked here, and only calls that nobody has locked: so that nobody waits out of order.
        select * from spanledger.call c
        where c.tenant = p_tenant and c.state = 'in_flight' and c.lease_until <= p_now and c.accounts && v_ids
            and (c.operation = 'execute_tool' or c.accounts <@ v_ids)
        order by c.lease_until limit 20 for update skip locked
    loop
        perform spanledger.lapse(v_call, p_now);
        if v_call.operation <> 'execute_tool' then
            v_lost := v_lost || v_call;
        end if;
    end loop;
    perform spanledger.lose(p_tenant, v_lost, p_now);
    return cardinality(v_lost);
end
$$;
