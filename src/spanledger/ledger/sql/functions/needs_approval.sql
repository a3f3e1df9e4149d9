-- Whether an approval is needed: true, or {"unit": …, "steps": …}: where the call reserves more than that, or nobody
-- can tell how much.
create or replace function spanledger.needs_approval(
    p_tenant text, p_approval jsonb, p_item jsonb, p_now timestamptz)
returns boolean
language plpgsql stable
as $$
begin
    if coalesce(jsonb_typeof(p_approval), 'null') = 'object' then
        return coalesce(spanledger.amount_in(p_tenant, p_item -> 'reserve', p_approval ->> 'unit', p_now)
            > (p_approval ->> 'steps')::bigint, true);
    end if;
    return coalesce(p_approval = 'true', false);
end
$$;
