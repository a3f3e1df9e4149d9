-- What belongs to calls and is as old as that: entries of history, requests for consent, accounts of closed windows,
-- delegations with their pools.
create or replace function spanledger.prune_beside_calls(p_tenant text, p_before timestamptz, p_rows_max integer)
returns jsonb
language plpgsql volatile
as $$
declare
    v_entries tid[];
    v_kept tid[];
    v_gone tid[];
    v_approvals tid[];
    v_accounts tid[];
    v_delegations tid[];
    v_pools bigint[];
begin
    select coalesce(array_agg(o.place), '{}'), coalesce(array_agg(o.place) filter (where o.stays), '{}'),
            coalesce(array_agg(o.place) filter (where not o.stays), '{}')
        into v_entries, v_kept, v_gone
        from (
            select h.place, h.stays from spanledger.over_history h where h.tenant = p_tenant and h.over_at < p_before
            order by h.over_at limit p_rows_max for update skip locked) o;
    delete from spanledger.history h where h.ctid = any (v_gone);
    update spanledger.history h set pruned_at = clock_timestamp(), detail = (
            select coalesce(jsonb_object_agg(d.key, case d.key when 'error' then d.value - 'message' else d.value end), '{}')
            from jsonb_each(h.detail) d
            where d.key in ('state', 'accounts', 'reserved', 'units', 'started_at', 'fingerprint', 'error'))
        where h.ctid = any (v_kept);
    v_approvals := array(
        select a.place from spanledger.over_approvals a
        where a.tenant = p_tenant and a.expires_at < p_before and a.over_at < p_before
        order by a.expires_at limit p_rows_max for update skip locked);
    delete from spanledger.approval a where a.ctid = any (v_approvals);
    v_accounts := array(
        select a.place from spanledger.over_accounts a
        where a.tenant = p_tenant and a.window_start < p_before and a.over_at < p_before
        order by a.window_start limit p_rows_max for update skip locked);
    delete from spanledger.account a where a.ctid = any (v_accounts);
    v_delegations := array(
        select d.place from spanledger.over_delegations d where d.tenant = p_tenant and d.over_at < p_before
        order by d.over_at, d.depth desc limit p_rows_max for update skip locked);
    v_pools := array(
        select d.account from spanledger.delegation d
        where d.ctid = any (v_delegations) and d.account is not null);
    delete from spanledger.delegation d where d.ctid = any (v_delegations);
    delete from spanledger.account a where a.id = any (v_pools);
    return jsonb_build_object('history', cardinality(v_gone), 'approvals', cardinality(v_approvals),
            'windows', cardinality(v_accounts), 'delegations', cardinality(v_delegations))
        || case when p_rows_max <= greatest(cardinality(v_entries), cardinality(v_approvals), cardinality(v_accounts),
            cardinality(v_delegations)) then '{"more": true}'::jsonb else '{}' end;
end
$$;
