-- Whether a moment is within hours of the day in UTC, written as 09:00-17:00; of the night as 22:00-06:00. The first
-- minute belongs to them, the last does not; null is every hour.
create or replace function spanledger.in_hours(p_hours text, p_now timestamptz)
returns boolean
language plpgsql immutable
as $$
declare
    v_at time := (p_now at time zone 'UTC')::time;
    v_from time := split_part(p_hours, '-', 1)::time;
    v_until time := split_part(p_hours, '-', 2)::time;
begin
    return coalesce(case when v_from < v_until then v_at >= v_from and v_at < v_until
        else v_at >= v_from or v_at < v_until end, true);
end
$$;
