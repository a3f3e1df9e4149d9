-- Calls that cost more than they had reserved: where their budget is over its limit now, that is kept in history.
create or replace function spanledger.record_overruns(p_tenant text, p_booked jsonb)
returns void
language plpgsql volatile
as $$
begin
    insert into spanledger.history (tenant, key, at, event, attempt, detail)
        select p_tenant, decode(o.key, 'hex'), clock_timestamp(), 'overrun', 0, jsonb_build_object(
            'budget', s.budget, 'scope', s.scope, 'unit', s.unit, 'limit', s.limit_steps, 'spent', s.spent_steps,
            'held', s.held_steps)
        from jsonb_to_recordset(p_booked) o (key text, id bigint)
        cross join lateral spanledger.standing(o.id) s
        where s.remaining_steps < 0;
end
$$;
