-- Calls that ended before this. What `goes`, because nobody could run it again by its key and no outcome can come that is
-- not booked, is deleted, with what was remembered of its attempts. Of the others stays what guards their key and tells a
-- late worker from a newer one; and where it may still turn out that they took effect, where that is booked.
create or replace function spanledger.prune_calls(
    p_tenant text, p_before timestamptz, p_forget boolean, p_rows_max integer)
returns jsonb
language plpgsql volatile
as $$
declare
    v_call spanledger.call;
    v_places tid[];
    v_gone tid[];
    v_keys bytea[];
    v_forgotten integer;
    v_pruned integer;
begin
    -- Nobody answered in time, and nobody has asked since.
    for v_call in
        select c.* from spanledger.approval a
        join spanledger.call c on c.tenant = a.tenant and c.key = a.key and c.approval_id = a.id
        where a.tenant = p_tenant and a.state = 'pending' and a.expires_at < p_before
            and c.state = 'pending' and c.approval_until < p_before
        limit p_rows_max for update of c, a skip locked
    loop
        perform spanledger.expire(v_call, v_call.approval_until);
    end loop;
    select coalesce(array_agg(o.place), '{}'), coalesce(array_agg(o.place) filter (where p_forget or o.goes), '{}')
        into v_places, v_gone
        from (
            select c.place, c.goes from spanledger.over_calls c
            where c.tenant = p_tenant and not c.pruned and c.over_at < p_before
            order by c.over_at limit p_rows_max for update skip locked) o;
    if p_forget and cardinality(v_places) < p_rows_max then
        v_gone := v_gone || array(
            select c.place from spanledger.over_calls c
            where c.tenant = p_tenant and c.pruned and c.over_at < p_before
            order by c.over_at limit p_rows_max - cardinality(v_places) for update skip locked);
    end if;
    with gone as (delete from spanledger.call c where c.ctid = any (v_gone) returning c.key)
        select array_agg(g.key) into v_keys from gone g;
    delete from spanledger.history h where h.tenant = p_tenant and h.key = any (v_keys) and h.pruned_at is not null;
    v_forgotten := cardinality(v_gone);
    update spanledger.call c set
        pruned_at = clock_timestamp(), arguments = null, result = null, result_kept = false, error = c.error - 'message',
        refusal = null, call_id = null, agent = null, actor = null, rule = null, rule_version = null, grants = null,
        delegation = null, approval_id = null, run_id = null, trace_id = null, span_id = null, cost = null, usage = null,
        accounts = case c.state when 'succeeded' then '{}' else c.accounts end,
        reserved = case c.state when 'succeeded' then '{}' else c.reserved end,
        units = case c.state when 'succeeded' then '{}' else c.units end
        where c.ctid = any (v_places);
    get diagnostics v_pruned = row_count;
    return jsonb_build_object('calls', v_pruned, 'keys', v_forgotten)
        || case when v_forgotten + v_pruned >= p_rows_max then '{"more": true}'::jsonb else '{}' end;
end
$$;
