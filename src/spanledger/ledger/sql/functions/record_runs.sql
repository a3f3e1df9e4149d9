-- Runs that belong to a session start and end. One ends once, whoever says so first; a session that has ended can be
-- opened again, by another run.
create or replace function spanledger.record_runs(p_tenant text, p_items jsonb, p_now timestamptz)
returns void
language plpgsql volatile
as $$
begin
    if not p_items @? '$[*].session' then
        return;
    end if;
    insert into spanledger.session (tenant, id, agent, actor, started_at)
        select distinct on (item -> 'session' ->> 'id') p_tenant, item -> 'session' ->> 'id',
            item ->> 'agent', item ->> 'actor', least(p_now, to_timestamp((item ->> 'at_s')::double precision))
        from jsonb_array_elements(p_items) item
        where item ->> 'event' = 'started' and item ? 'session'
        order by item -> 'session' ->> 'id', (item ->> 'at_s')::double precision
        on conflict (tenant, id) do nothing;
    insert into spanledger.run (
        tenant, id, session_id, kind, turn_id, workflow_id, agent, actor, goal, trace_id, span_id, started_at, alive_until,
        agent_version, environment)
        select p_tenant, (item ->> 'run_id')::uuid, item -> 'session' ->> 'id', item -> 'session' ->> 'kind',
            (item -> 'session' ->> 'turn')::uuid, item ->> 'workflow_id', item ->> 'agent', item ->> 'actor',
            item -> 'detail' ->> 'goal', item ->> 'trace_id', item ->> 'span_id',
            least(p_now, to_timestamp((item ->> 'at_s')::double precision)),
            p_now + make_interval(secs => (item -> 'session' ->> 'lease_s')::double precision),
            item -> 'session' ->> 'agent_version', item -> 'session' ->> 'environment'
        from jsonb_array_elements(p_items) item
        where item ->> 'event' = 'started' and item ? 'session'
        order by item ->> 'run_id'
        on conflict (tenant, id) do nothing;
    perform from spanledger.run r
        where r.tenant = p_tenant and r.ended_at is null and r.id in (
            select (item ->> 'run_id')::uuid from jsonb_array_elements(p_items) item
            where item ->> 'event' = 'ended' and item ? 'session')
        order by r.id for update;
    update spanledger.run r set
        ended_at = least(p_now, to_timestamp((item ->> 'at_s')::double precision)),
        status = item -> 'detail' ->> 'status', error = item -> 'detail' ->> 'error'
        from jsonb_array_elements(p_items) item
        where item ->> 'event' = 'ended' and item ? 'session'
            and r.tenant = p_tenant and r.id = (item ->> 'run_id')::uuid and r.ended_at is null;
end
$$;
