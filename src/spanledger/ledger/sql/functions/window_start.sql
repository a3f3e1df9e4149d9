-- When the window of a budget began that holds now; of a rolling one, the slice of it that is being filled. Rolling
-- windows are kept in sixty slices.
create or replace function spanledger.window_start(
    p_kind text, p_window_s double precision, p_timezone text, p_now timestamptz)
returns timestamptz
language plpgsql stable
as $$
begin
    if p_kind is null then
        return '-infinity';
    elsif p_kind = 'rolling' then
        return to_timestamp(floor(extract(epoch from p_now)::double precision / (p_window_s / 60)) * (p_window_s / 60));
    end if;
    return date_trunc(p_kind, p_now, p_timezone);
end
$$;
