-- A probe found out what became of calls of unknown outcome. Only who holds the call's probe, by `probe_id`, may say
-- so: an agent can ask the outside world, and cannot resolve whatever it likes.
create or replace function spanledger_v1.probed(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    v_answers jsonb[] := '{}';
    v_item jsonb;
begin
    perform spanledger.require(p_tenant, 'probed');
    perform spanledger.lock_items(p_tenant, p_items);
    for v_item in select value from jsonb_array_elements(p_items) loop
        perform from spanledger.call c
            where c.tenant = p_tenant and c.key = decode(v_item ->> 'key', 'hex')
                and c.probe_id = (v_item ->> 'probe_id')::uuid and c.state = 'unknown'
            for update skip locked;
        if found then
            v_answers := v_answers || (spanledger.resolve_items(p_tenant, jsonb_build_array(v_item)) -> 0);
        else
            v_answers := v_answers || '{"done": false, "state": null}'::jsonb;
        end if;
    end loop;
    return to_jsonb(v_answers);
end
$$;
