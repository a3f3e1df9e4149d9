-- Which control of the ledger asks for an approval of this call: its match and version, or null.
create or replace function spanledger.approval_control(p_tenant text, p_item jsonb, p_now timestamptz)
returns text
language plpgsql stable
as $$
begin
    return (select format('%s (version %s)', c.match, c.version)
        from spanledger.control c
        where c.tenant = p_tenant and c.kind = 'approval' and c.active and p_item ->> 'operation' = 'execute_tool'
            and p_item ->> 'tool' like c.match_like and not p_item ->> 'tool' like any (c.except_like)
            and spanledger.needs_approval(p_tenant, c.spec -> 'approval', p_item, p_now)
        order by c.match limit 1);
end
$$;
