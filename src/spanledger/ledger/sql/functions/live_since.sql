-- Accounts of a budget that began at this time or later count now. Of a rolling window, a slice counts until the last
-- of it is old enough, so that no stretch of the window's length ever holds more than the limit. Runs as the ledger's
-- owner: whoever reads how budgets stand may not use the schema that it calls into.
create or replace function spanledger.live_since(
    p_kind text, p_window_s double precision, p_timezone text, p_now timestamptz)
returns timestamptz
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_kind = 'rolling' then
        return p_now - make_interval(secs => p_window_s + p_window_s / 60);
    end if;
    return spanledger.window_start(p_kind, p_window_s, p_timezone, p_now);
end
$$;
