-- Lock every account these items may reserve from or still hold from, by id, and say how each stands.
create or replace function spanledger.lock_accounts(p_tenant text, p_items jsonb, p_calls spanledger.call[])
returns jsonb
language plpgsql volatile
as $$
declare
    v_accounts jsonb;
begin
    with locked as (
        select a.id, b.name, b.unit, b.match_like, b.operations, b.limit_steps + a.topped_up as "limit", a.spent, a.held
        from spanledger.account a
        join spanledger.budget b on b.tenant = a.tenant and b.name = a.budget
        where a.tenant = p_tenant
            and (exists (select from jsonb_array_elements(p_items) item
                    where item ->> 'tool' like b.match_like
                        and (b.operations is null or item ->> 'operation' = any (b.operations)))
                or exists (select from unnest(p_calls) c where a.id = any (c.accounts)))
        order by a.id
        for update of a
    )
    select coalesce(jsonb_agg(to_jsonb(locked) order by locked.id), '[]') into v_accounts from locked;
    return v_accounts;
end
$$;
