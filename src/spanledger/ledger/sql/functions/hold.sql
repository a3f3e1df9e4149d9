-- Write what the accounts hold now; they are locked.
create or replace function spanledger.hold(p_accounts jsonb)
returns void
language plpgsql volatile
as $$
begin
    update spanledger.account a set held = (n.value ->> 'own')::bigint
        from jsonb_each(p_accounts) n
        where a.id = n.key::bigint and a.held <> (n.value ->> 'own')::bigint;
end
$$;
