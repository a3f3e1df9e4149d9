-- Tell whoever waits for this call that it has changed. A notification takes a lock on the whole database at commit, so
-- there is none where nobody waits.
create or replace function spanledger.wake(p_call spanledger.call, p_now timestamptz)
returns void
language plpgsql volatile
as $$
begin
    if p_call.waited_until > p_now then
        perform pg_notify('spanledger', encode(p_call.key, 'hex'));
    end if;
end
$$;
