-- Nobody answered in time.
create or replace function spanledger.expire(p_call spanledger.call, p_now timestamptz)
returns void
language plpgsql volatile
as $$
begin
    update spanledger.approval a set state = 'expired'
        where a.tenant = p_call.tenant and a.id = p_call.approval_id and a.state = 'pending';
    update spanledger.call c set state = 'expired', ended_at = p_now
        where c.tenant = p_call.tenant and c.key = p_call.key;
    insert into spanledger.history (tenant, key, at, event, attempt, detail)
        values (p_call.tenant, p_call.key, p_now, 'expired', p_call.attempt,
            jsonb_build_object('approval_id', p_call.approval_id, 'approval_until', p_call.approval_until));
    perform spanledger.wake(p_call, p_now);
end
$$;
