-- A claim is given back of which nothing is known: its begin may be late, and shall start nothing when it comes. The key is
-- given a row where it has none, because a begin that finds one looks closer; not while others may be claiming it, so that
-- it has to be told again.
create or replace function spanledger.forestall(
    p_tenant text, p_item jsonb, p_call spanledger.call, p_alone boolean)
returns void
language plpgsql volatile
as $$
declare
    v_now timestamptz := clock_timestamp();
begin
    if p_call.tenant is null and p_alone and p_item ?& '{operation,workflow_id,key_source}' then
        perform spanledger.write_call(p_tenant, p_item, null, v_now, 'released', null, null);
        update spanledger.call c set ended_at = v_now, error = '{"type": "not_invoked", "message": "interrupted before it ran"}'
            where c.tenant = p_tenant and c.key = decode(p_item ->> 'key', 'hex');
        return;
    end if;
    if p_call.attempt_id = (p_item ->> 'attempt_id')::uuid or spanledger.is_over(p_tenant, p_item, p_call) is not null then
        return;
    end if;
    insert into spanledger.history (tenant, key, at, event, attempt, attempt_id)
        values (p_tenant, decode(p_item ->> 'key', 'hex'), v_now, 'not_invoked', coalesce(p_call.attempt, 0),
            (p_item ->> 'attempt_id')::uuid);
end
$$;
