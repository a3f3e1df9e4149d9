-- Open the account of what a delegation may spend, and of the budget that such accounts are kept under. Returns its id.
create or replace function spanledger.open_pool(p_tenant text, p_id uuid, p_unit text, p_steps bigint)
returns bigint
language plpgsql volatile
as $$
declare
    v_account bigint;
begin
    insert into spanledger.budget (tenant, name, unit, limit_steps, match, match_like, operations, per, applied_at, applied_by)
        values (p_tenant, spanledger.pool_name(p_unit), p_unit, 0, '', '', '{}', '{delegation}', clock_timestamp(), 'delegate')
        on conflict (tenant, name) do nothing;
    if not exists (select from spanledger.budget b where b.tenant = p_tenant and b.name = spanledger.pool_name(p_unit)
        and b.per = '{delegation}') then
        raise exception 'the budget % stands where what is delegated is kept: give it another name',
            spanledger.pool_name(p_unit) using errcode = 'SL001';
    end if;
    insert into spanledger.account (tenant, budget, scope, topped_up)
        values (p_tenant, spanledger.pool_name(p_unit), jsonb_build_object('delegation', p_id)::text, p_steps)
        returning id into v_account;
    return v_account;
end
$$;
