-- What the worker of an attempt of unknown outcome has told that it cost is spent, once nobody will say any more that it
-- succeeded: it is ruled out, or the next attempt takes over what it holds.
create or replace function spanledger.spend_told(p_call spanledger.call, p_now timestamptz)
returns void
language plpgsql volatile
as $$
begin
    if p_call.state = 'unknown' and coalesce(p_call.cost, '{}') not in ('{}', 'null') then
        perform spanledger.record_late(p_call.tenant, jsonb_build_object('key', encode(p_call.key, 'hex'),
            'attempt_id', p_call.attempt_id, 'cost', p_call.cost), p_call, 'failure_spent', p_now);
    end if;
end
$$;
