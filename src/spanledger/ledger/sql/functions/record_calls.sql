-- Calls that nobody asked about before they were made: rows as those of others, recorded and not guarded. What they cost
-- counts as spent, whatever the limits say, because money that left is money that left; what is over a limit is in
-- history, and the next call is refused; what is told as not budgeted is in no budget. Told again, a call is booked once. Their keys are made here of what they are told
-- by, so that nobody can report a call that has to be asked about.
create or replace function spanledger.record_calls(p_tenant text, p_items jsonb, p_now timestamptz)
returns void
language plpgsql volatile
as $$
declare
    v_calls jsonb;
    v_wanted jsonb;
    v_bookings jsonb;
begin
    with item as (
        select distinct on (i.item ->> 'key') i.item, i.item -> 'call' as call,
            sha256(convert_to('recorded', 'UTF8') || decode(i.item ->> 'key', 'hex')) as key,
            least(p_now, to_timestamp((i.item ->> 'at_s')::double precision)) as at
        from jsonb_array_elements(p_items) i (item)
        where i.item ->> 'event' = 'call'
        order by i.item ->> 'key'
    ), written as (
        insert into spanledger.call (
            tenant, key, state, attempt, attempts, attempt_id, tool, operation, workflow_id, run_id, key_source, call_id,
            agent, actor, arguments, error, cost, usage, trace_id, span_id, created_at, started_at, ended_at)
        -- Who records says that it is over, and nothing that others decide: not that it was allowed, say.
        select p_tenant, key,
            case call ->> 'state' when 'failed' then 'failed' else 'succeeded' end, 1, 1, (item ->> 'id')::uuid,
            call ->> 'tool', call ->> 'operation', coalesce(item ->> 'workflow_id', ''), (item ->> 'run_id')::uuid,
            'recorded', call ->> 'call_id', item ->> 'agent', item ->> 'actor', call ->> 'arguments',
            nullif(call -> 'error', 'null'), coalesce(call -> 'cost', '{}'), nullif(call -> 'usage', 'null'), item ->> 'trace_id', item ->> 'span_id',
            began, began, at
        from item cross join lateral (
            select at - make_interval(secs => coalesce((call ->> 'took_s')::double precision, 0)) as began) b
        on conflict (tenant, key) do nothing
        returning key, state, tool, operation, workflow_id, agent, actor, cost
    )
    select jsonb_agg(jsonb_build_object(
            'key', encode(w.key, 'hex'), 'state', w.state, 'tool', w.tool, 'operation', w.operation,
            'workflow_id', w.workflow_id, 'agent', w.agent, 'actor', w.actor, 'cost', w.cost) order by w.key)
        into v_calls from written w join item i using (key)
        where coalesce((i.call ->> 'budgeted')::boolean, true);
    if v_calls is null then
        return;
    end if;
    v_wanted := spanledger.wanted(p_tenant, v_calls, array(select generate_series(1, jsonb_array_length(v_calls))));
    select jsonb_agg(jsonb_build_object(
            'key', c.call -> 'key', 'accounts', a.ids, 'units', a.units, 'amounts', a.amounts, 'cost', c.call -> 'cost',
            'spend', c.call ->> 'state' = 'succeeded', 'release', false, 'at', p_now))
        into v_bookings
        from jsonb_array_elements(v_calls) with ordinality c (call, n)
        cross join lateral (
            select jsonb_agg(w -> 'id') as ids, jsonb_agg(w -> 'unit') as units, jsonb_agg(coalesce(
                greatest(0, spanledger.amount_in(p_tenant, c.call -> 'cost' || '{"calls": 1}', w ->> 'unit', p_now)), 0)) as amounts
            from jsonb_array_elements(v_wanted -> c.n::text) w) a
        where a.ids is not null;
    if v_bookings is not null then
        perform spanledger.book_many(p_tenant, v_bookings);
    end if;
end
$$;
