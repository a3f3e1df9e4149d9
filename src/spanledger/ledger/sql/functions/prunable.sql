-- How many of each kind `prune` would remove; at most a hundred thousand are counted of each.
create or replace function spanledger.prunable(p_tenant text, p_before jsonb, p_forget boolean)
returns jsonb
language plpgsql stable
as $$
declare
    v_max constant integer := 100000;
    v_calls constant timestamptz := (p_before ->> 'calls')::timestamptz;
    v_trail constant timestamptz := (p_before ->> 'trail')::timestamptz;
    v_evaluations constant timestamptz := (p_before ->> 'evaluations')::timestamptz;
    v_lapsed integer := (select count(*) from (
        select from spanledger.approval a
        join spanledger.call c on c.tenant = a.tenant and c.key = a.key and c.approval_id = a.id
        where a.tenant = p_tenant and a.state = 'pending' and a.expires_at < v_calls
            and c.state = 'pending' and c.approval_until < v_calls limit v_max) n);
begin
    return case when v_calls is null then '{}' else (
            select jsonb_build_object('calls', count(*) filter (where not n.goes) + case when p_forget then 0 else v_lapsed end,
                'keys', count(*) filter (where n.goes) + case when p_forget then v_lapsed else 0 end)
            from (select p_forget or c.goes as goes from spanledger.over_calls c
                where c.tenant = p_tenant and (p_forget or not c.pruned) and c.over_at < v_calls limit v_max) n)
        || jsonb_build_object('history', (select count(*) from (select from spanledger.over_history h
                where h.tenant = p_tenant and h.over_at < v_calls and (p_forget or not h.stays) limit v_max) n),
            'approvals', v_lapsed + (select count(*) from (select from spanledger.over_approvals a
                where a.tenant = p_tenant and a.expires_at < v_calls and a.over_at < v_calls limit v_max) n),
            'windows', (select count(*) from (select from spanledger.over_accounts a
                where a.tenant = p_tenant and a.window_start < v_calls and a.over_at < v_calls limit v_max) n),
            'delegations', (select count(*) from (select from spanledger.over_delegations d
                where d.tenant = p_tenant and d.over_at < v_calls limit v_max) n)) end
        || case when v_trail is null then '{}' else jsonb_build_object(
            'trail', (select count(*) from (select from spanledger.trail t
                where t.tenant = p_tenant and t.at < v_trail limit v_max) n),
            'sessions', (select count(*) from (select from spanledger.over_sessions s
                where s.tenant = p_tenant and s.started_at < v_trail and s.over_at < v_trail limit v_max) n)) end
        || case when v_evaluations is null then '{}' else jsonb_build_object(
            'evaluations', (select count(*) from (select from spanledger.over_eval_runs r
                where r.tenant = p_tenant and r.over_at < v_evaluations limit v_max) n)) end;
end
$$;
