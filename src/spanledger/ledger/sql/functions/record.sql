-- Keep what agents say of themselves; told again, it is kept once. `at_s` is when it was, by this clock as far as the
-- teller knows it from the answers: `now_s`. An entry about a call belongs to that call's workflow, where it says none.
-- One that says where a request for consent is in the trace moves the request there, if it comes from whoever asked; it
-- is no entry of its own. Requests that somebody else has locked are left as they are, so that there is no order of
-- locks to keep; runs, calls and accounts are locked in that order, each by their ids. Plans are generic, as in `begin`.
create or replace function spanledger_v1.record(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
set plan_cache_mode = force_generic_plan
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_new integer;
begin
    if session_user <> current_user then
        perform spanledger.require(p_tenant, 'record');
    end if;
    insert into spanledger.trail (
        tenant, id, at, workflow_id, event, run_id, key, agent, actor, trace_id, span_id, detail)
    select p_tenant, (i.item ->> 'id')::uuid,
        least(v_now, to_timestamp((i.item ->> 'at_s')::double precision)),
        -- A scalar subquery: asked only where the entry does not say it, and by key, however small the table is.
        coalesce(i.item ->> 'workflow_id', (
            select c.workflow_id from spanledger.call c
            where c.tenant = p_tenant and c.key = decode(i.item ->> 'key', 'hex')), ''),
        i.item ->> 'event', (i.item ->> 'run_id')::uuid,
        decode(i.item ->> 'key', 'hex'), i.item ->> 'agent', i.item ->> 'actor',
        i.item ->> 'trace_id', i.item ->> 'span_id', coalesce(i.item -> 'detail', '{}')
    from jsonb_array_elements(p_items) with ordinality i (item, n)
    where i.item ->> 'event' not in ('approval', 'call', 'agent')
    order by i.n
    on conflict (tenant, id) do nothing;
    get diagnostics v_new = row_count;
    if p_items @? '$[*] ? (@.event == "approval")' then
        update spanledger.approval a set trace_id = i.item ->> 'trace_id', span_id = i.item ->> 'span_id'
        from (
            select e.item, b.id from jsonb_array_elements(p_items) e (item)
            cross join lateral (
                select b.id from spanledger.approval b
                where b.tenant = p_tenant and b.id = (e.item -> 'detail' ->> 'approval_id')::uuid
                    and b.requested_by = (e.item ->> 'id')::uuid
                for update of b skip locked) b
            where e.item ->> 'event' = 'approval') i
        where a.tenant = p_tenant and a.id = i.id;
    end if;
    if p_items @? '$[*].agent' then
        perform spanledger.record_agents(p_tenant, p_items, v_now);
    end if;
    perform spanledger.record_runs(p_tenant, p_items, v_now);
    if p_items @? '$[*].call' then
        perform spanledger.record_calls(p_tenant, p_items, v_now);
    end if;
    return jsonb_build_object('new', v_new, 'now_s', extract(epoch from clock_timestamp()));
end
$$;
