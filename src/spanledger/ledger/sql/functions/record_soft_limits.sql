-- A call took budgets past their soft limits: kept in history.
create or replace function spanledger.record_soft_limits(
    p_tenant text, p_item jsonb, p_attempt integer, p_budgets jsonb, p_now timestamptz)
returns void
language plpgsql volatile
as $$
begin
    if p_budgets @? '$[*].soft' then
        insert into spanledger.history (tenant, key, at, event, attempt, attempt_id, detail)
            select p_tenant, decode(p_item ->> 'key', 'hex'), p_now, 'soft_limit', p_attempt,
                (p_item ->> 'attempt_id')::uuid, b
            from jsonb_array_elements(p_budgets) b where b ? 'soft';
    end if;
end
$$;
