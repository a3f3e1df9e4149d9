-- A call whose attempt was never admitted and ran all the same, with what it is booked on: the accounts of the budgets that
-- cover it, in their windows at `p_at`, as if it had reserved there. What `ran` is believed; without it, what the call's row
-- says: what a person was asked about, or what was more than was left.
create or replace function spanledger.booked_as(p_item jsonb, p_call spanledger.call, p_at timestamptz)
returns spanledger.call
language plpgsql volatile
as $$
declare
    v_ran jsonb := p_item -> 'ran';
    v_accounts jsonb;
begin
    if v_ran is null then
        v_ran := jsonb_build_object('tool', p_call.tool, 'operation', p_call.operation, 'workflow_id', p_call.workflow_id,
            'agent', p_call.agent, 'actor', p_call.actor, 'reserve', '{"calls": 1}'::jsonb);
        if p_call.attempt_id = (p_item ->> 'attempt_id')::uuid then
            v_ran := jsonb_set(v_ran, '{reserve}', v_ran -> 'reserve' || coalesce(
                case when p_call.refusal ->> 'requested' is not null then jsonb_build_object(
                    coalesce(p_call.refusal ->> 'unit', p_call.refusal #>> '{limit,unit}'), p_call.refusal -> 'requested') end,
                (select a.reserve from spanledger.approval a
                    where a.tenant = p_call.tenant and a.id = p_call.approval_id), '{}'));
        end if;
    end if;
    v_accounts := coalesce(spanledger.wanted(p_call.tenant, jsonb_build_array(v_ran), '{1}', p_at) -> '1', '[]');
    if p_call.attempt_id = (p_item ->> 'attempt_id')::uuid then
        v_accounts := v_accounts || (
            select coalesce(jsonb_agg(jsonb_build_object('id', d.account, 'unit', d.unit)), '[]')
            from spanledger.delegation own cross join unnest(own.chain) l (id)
            join spanledger.delegation d on d.tenant = own.tenant and d.id = l.id and d.account is not null
            where own.tenant = p_call.tenant and own.id = p_call.delegation);
    end if;
    select coalesce(array_agg((w ->> 'id')::bigint), '{}'), coalesce(array_agg(w ->> 'unit'), '{}'),
            coalesce(array_agg(coalesce(
                spanledger.amount_in(p_call.tenant, v_ran -> 'reserve', w ->> 'unit', p_at), 0)), '{}')
        into p_call.accounts, p_call.units, p_call.reserved
        from jsonb_array_elements(v_accounts) w;
    p_call.started_at := p_at;
    return p_call;
end
$$;
