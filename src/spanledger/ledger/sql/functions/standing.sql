-- How an account stands: all that counts against its limit, which of a rolling window is what its live slices hold
-- together.
create or replace function spanledger.standing(
    p_account bigint, out budget text, out scope text, out unit text,
    out limit_steps bigint, out spent_steps bigint, out held_steps bigint, out remaining_steps bigint)
language plpgsql stable
as $$
begin
    select b.name, a.scope, b.unit, b.limit_steps + least(sum(s.topped_up), 1000000000000000000),
            least(sum(s.spent), 4000000000000000000), sum(s.held), b.limit_steps
                + least(sum(s.topped_up), 1000000000000000000) - least(sum(s.spent), 4000000000000000000) - sum(s.held)
        into budget, scope, unit, limit_steps, spent_steps, held_steps, remaining_steps
        from spanledger.account a
        join spanledger.budget b on b.tenant = a.tenant and b.name = a.budget
        join spanledger.account s on s.id = a.id or (
            b.window_kind = 'rolling' and s.tenant = a.tenant and s.budget = a.budget and s.scope = a.scope
            and s.window_start >= spanledger.live_since(b.window_kind, b.window_s, b.timezone, clock_timestamp()))
        where a.id = p_account
        group by b.name, a.scope, b.unit, b.limit_steps;
end
$$;
