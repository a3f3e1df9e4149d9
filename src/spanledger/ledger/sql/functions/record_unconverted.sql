-- What calls cost that no budget could count, for want of a rate, is kept in history, with what was counted instead: what
-- they had reserved, or nothing.
create or replace function spanledger.record_unconverted(p_tenant text, p_booked jsonb)
returns void
language plpgsql volatile
as $$
begin
    insert into spanledger.history (tenant, key, at, event, attempt, detail)
        select p_tenant, decode(o.key, 'hex'), clock_timestamp(), 'unconverted', 0, jsonb_build_object(
            'budget', s.budget, 'scope', s.scope, 'unit', s.unit, 'cost', o.cost, 'counted', o.counted)
        from jsonb_to_recordset(p_booked) o (key text, id bigint, cost jsonb, counted bigint)
        cross join lateral spanledger.standing(o.id) s;
end
$$;
