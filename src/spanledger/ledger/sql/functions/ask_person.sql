-- Open a request for a person's consent to exactly these arguments. One that was open for others is superseded.
create or replace function spanledger.ask_person(
    p_tenant text, p_item jsonb, p_call spanledger.call, p_control text, p_now timestamptz)
returns jsonb
language plpgsql volatile
as $$
declare
    v_id uuid := gen_random_uuid();
    v_key bytea := decode(p_item ->> 'key', 'hex');
    v_timeout interval := make_interval(secs => coalesce((p_item ->> 'approval_timeout_s')::double precision, 86400));
begin
    if p_call.state in ('pending', 'approved') then
        update spanledger.approval a set state = 'superseded'
            where a.tenant = p_tenant and a.id = p_call.approval_id and a.state in ('pending', 'approved');
    end if;
    if p_call.held <> '{}' then
        perform spanledger.book(p_call, p_call.held, null, true, false);
    end if;
    perform spanledger.write_call(p_tenant, p_item, p_call, p_now, 'pending', null, null);
    update spanledger.call c set approval_id = v_id, approval_until = p_now + v_timeout,
        waited_until = greatest(c.waited_until, p_now + make_interval(secs => (p_item ->> 'wait_s')::double precision))
        where c.tenant = p_tenant and c.key = v_key;
    insert into spanledger.approval (
        tenant, id, key, fingerprint, state, tool, workflow_id, agent, actor, arguments, reserve, rule, control,
        self_approval, requested_at, requested_by, expires_at, trace_id, span_id)
    values (
        p_tenant, v_id, v_key, decode(p_item ->> 'fingerprint', 'hex'), 'pending', p_item ->> 'tool',
        p_item ->> 'workflow_id', p_item ->> 'agent', p_item ->> 'actor', p_item ->> 'arguments', p_item -> 'reserve',
        p_item ->> 'rule', p_control, coalesce((p_item ->> 'self_approval')::boolean, false), p_now,
        (p_item ->> 'attempt_id')::uuid, p_now + v_timeout, p_item ->> 'trace_id', p_item ->> 'span_id');
    return jsonb_build_object('verdict', 'awaiting_approval', 'approval_id', v_id,
        'left_s', extract(epoch from v_timeout), 'requested', true);
end
$$;
