-- Which functions of spanledger_v1 each kind of role may use. Whoever owns the schema may use all of them.
create or replace function spanledger.rights(p_kind text)
returns text[]
language sql immutable
as $$
    select case p_kind
        when 'agent' then array['begin', 'shadow', 'settle', 'fail', 'renew', 'peek', 'probed', 'authorize', 'permissions',
            'delegate', 'withdraw_delegation', 'controlled', 'record', 'gauges', 'retained', 'end_session', 'register_agent']
        when 'operator' then array['resolve', 'cancel', 'apply', 'top_up', 'erase', 'prune', 'revoke_delegation', 'gauges',
            'retained', 'end_session', 'register_agent']
        when 'approver' then array['approve', 'deny', 'gauges', 'retained']
        -- Who is judged does not write the marks.
        when 'evaluator' then array['eval_begin', 'eval_record', 'eval_submit']
    end
$$;
