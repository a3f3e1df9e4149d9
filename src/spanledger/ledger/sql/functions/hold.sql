-- Write what the accounts hold now; they are locked.
create or replace function spanledger.hold(p_accounts jsonb)
returns void
language plpgsql volatile
as $$
declare
    v_id text;
begin
    for v_id in select jsonb_object_keys(p_accounts) loop
        update spanledger.account a set held = (p_accounts -> v_id ->> 'own')::bigint
            where a.id = v_id::bigint and a.held <> (p_accounts -> v_id ->> 'own')::bigint;
    end loop;
end
$$;
