-- What agents said of themselves before this, and sessions of which nothing has gone on since. A session goes as a whole.
create or replace function spanledger.prune_trail(p_tenant text, p_before timestamptz, p_rows_max integer)
returns jsonb
language plpgsql volatile
as $$
declare
    v_entries tid[];
    v_sessions text[];
begin
    v_entries := array(
        select t.ctid from spanledger.trail t where t.tenant = p_tenant and t.at < p_before
        order by t.at limit p_rows_max for update skip locked);
    delete from spanledger.trail t where t.ctid = any (v_entries);
    v_sessions := array(
        select s.id from spanledger.over_sessions s
        where s.tenant = p_tenant and s.started_at < p_before and s.over_at < p_before
        order by s.started_at limit p_rows_max for update skip locked);
    delete from spanledger.run r where r.tenant = p_tenant and r.session_id = any (v_sessions);
    delete from spanledger.session s where s.tenant = p_tenant and s.id = any (v_sessions);
    return jsonb_build_object('trail', cardinality(v_entries), 'sessions', cardinality(v_sessions))
        || case when p_rows_max <= greatest(cardinality(v_entries), cardinality(v_sessions))
            then '{"more": true}'::jsonb else '{}' end;
end
$$;
