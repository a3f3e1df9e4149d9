-- A running call whose lease is over: nobody knows its outcome. What it holds stays held.
create or replace function spanledger.lapse(p_call spanledger.call, p_now timestamptz)
returns void
language plpgsql volatile
as $$
begin
    update spanledger.call c set state = 'unknown', lease_until = null
        where c.tenant = p_call.tenant and c.key = p_call.key;
    insert into spanledger.history (tenant, key, at, event, attempt, attempt_id, detail)
        values (p_call.tenant, p_call.key, p_now, 'lease_over', p_call.attempt, p_call.attempt_id,
            jsonb_build_object('lease_until', p_call.lease_until));
    perform spanledger.wake(p_call, p_now);
end
$$;
