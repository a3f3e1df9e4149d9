-- Write what `reserve` found: the call is claimed, or refused. Returns the answer.
create or replace function spanledger.record_verdict(
    p_tenant text, p_item jsonb, p_call spanledger.call, p_found jsonb, p_now timestamptz)
returns jsonb
language plpgsql volatile
as $$
declare
    v_attempt uuid := (p_item ->> 'attempt_id')::uuid;
begin
    if p_found ? 'refusal' then
        perform spanledger.refuse(p_tenant, p_item, p_call, p_found -> 'refusal', p_now);
        return p_found -> 'refusal' || jsonb_build_object('verdict', 'budget_exceeded',
            'attempt', coalesce(p_call.attempt, 0), 'attempts', coalesce(p_call.attempts, 0));
    end if;
    if p_call.state = 'approved' then
        -- Single use: this attempt has it now.
        update spanledger.approval a set state = 'consumed', consumed_at = p_now, consumed_by = v_attempt
            where a.tenant = p_tenant and a.id = p_call.approval_id and a.state = 'approved';
    end if;
    perform spanledger.write_call(p_tenant, p_item, p_call, p_now, 'in_flight', null, p_found);
    perform spanledger.record_soft_limits(p_tenant, p_item, coalesce(p_call.attempt, 0) + 1, p_found -> 'budgets', p_now);
    return jsonb_build_object('verdict', 'run', 'budgets', p_found -> 'budgets',
        'attempt', coalesce(p_call.attempt, 0) + 1,
        'attempts', 1 + case p_call.state when 'succeeded' then 0 else coalesce(p_call.attempts, 0) end)
        || case when p_call.state = 'approved'
            then spanledger.consent_of(p_tenant, p_call.approval_id, v_attempt) else '{}' end;
end
$$;
