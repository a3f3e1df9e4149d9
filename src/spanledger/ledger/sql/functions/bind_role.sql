-- Bind a database role to a tenant, '*' for all of them, as an agent, an operator, an approver or an evaluator. Only the ledger's
-- owner may: it runs as whoever calls it.
create or replace function spanledger_v1.bind_role(p_role text, p_kind text, p_tenant text, p_by text)
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if spanledger.rights(p_kind) is null then
        raise exception 'a role is bound as agent, operator, approver or evaluator, not as %', p_kind using errcode = 'SL001';
    end if;
    if not exists (select from pg_roles where rolname = p_role) then
        raise exception 'there is no database role %: create role % login first', p_role, quote_ident(p_role)
            using errcode = 'SL001';
    end if;
    insert into spanledger.member (role, kind, tenant, bound_at, bound_by)
        values (p_role, p_kind, p_tenant, clock_timestamp(), p_by) on conflict do nothing;
    perform spanledger.grant_rights();
end
$$;
