-- Somebody waits for this call, and is woken when it changes. The call is locked.
create or replace function spanledger.wait_for(p_call spanledger.call, p_item jsonb, p_now timestamptz)
returns void
language plpgsql volatile
as $$
declare
    v_until timestamptz := p_now + make_interval(secs => (p_item ->> 'wait_s')::double precision);
begin
    if p_call.waited_until is null or p_call.waited_until < v_until then
        update spanledger.call c set waited_until = v_until where c.tenant = p_call.tenant and c.key = p_call.key;
    end if;
end
$$;
