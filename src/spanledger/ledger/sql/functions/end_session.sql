-- End what is open of a session, from elsewhere than where it runs. Returns how many of its runs that ended, those of dead
-- processes included; what has ended already stays as it is.
create or replace function spanledger_v1.end_session(
    p_tenant text, p_session text, p_by text, p_status text default 'done', p_error text default null)
returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    v_ended integer;
begin
    perform spanledger.require(p_tenant, 'end_session');
    perform from spanledger.run r
        where r.tenant = p_tenant and r.session_id = p_session and r.ended_at is null order by r.id for update;
    update spanledger.run r set ended_at = clock_timestamp(), status = p_status, error = p_error, ended_by = p_by
        where r.tenant = p_tenant and r.session_id = p_session and r.ended_at is null;
    get diagnostics v_ended = row_count;
    return v_ended;
end
$$;
