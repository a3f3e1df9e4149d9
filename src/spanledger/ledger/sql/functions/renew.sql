-- Signs of life: these attempts still run, and these runs of sessions. A call whose lease was over already, and was judged so, stays unknown. And
-- whoever lives looks for the dead: calls to models whose worker is gone hold nothing for long.
create or replace function spanledger_v1.renew(p_tenant text, p_items jsonb)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    v_call spanledger.call;
    v_lost spanledger.call[] := '{}';
begin
    perform spanledger.require(p_tenant, 'renew');
    -- Nobody waits for a row here, so that the order of locks does not matter: what is locked is being decided.
    update spanledger.call c set lease_until = clock_timestamp() + make_interval(secs => i.lease_s)
        from jsonb_to_recordset(p_items -> 'items') i (key text, attempt_id uuid, lease_s double precision)
        where c.tenant = p_tenant and c.attempt_id = i.attempt_id and c.state = 'in_flight'
            and c.key in (select locked.key from spanledger.call locked
                where locked.tenant = p_tenant and locked.key = decode(i.key, 'hex') for update skip locked);
    update spanledger.run r set alive_until = clock_timestamp() + make_interval(secs => i.lease_s)
        from jsonb_to_recordset(p_items -> 'items') i (run_id uuid, lease_s double precision)
        where r.tenant = p_tenant and r.id in (select locked.id from spanledger.run locked
            where locked.tenant = p_tenant and locked.id = i.run_id and locked.ended_at is null for update skip locked);
    for v_call in
        select * from spanledger.call c
        where c.tenant = p_tenant and c.state = 'in_flight' and c.lease_until <= clock_timestamp()
            and c.operation <> 'execute_tool'
        order by c.lease_until limit 20 for update skip locked
    loop
        perform spanledger.lapse(v_call, clock_timestamp());
        v_lost := v_lost || v_call;
    end loop;
    perform spanledger.lose(p_tenant, v_lost, clock_timestamp());
end
$$;
