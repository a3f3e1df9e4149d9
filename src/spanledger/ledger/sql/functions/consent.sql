-- May people let this call run? Null: it may go on. Otherwise the answer, and it is written: stopped by an operator's
-- switch, not granted, waiting for a person, or out of time. Consent is bound to the fingerprint of exactly the arguments
-- that run. p_grants is what `permitted` says. Who asks says in `redacts` what it keeps from everybody; where grants redact
-- more, it is told so by `obliges`, nothing is written, and it may ask again. Who does not say so cannot, and is refused.
create or replace function spanledger.consent(
    p_tenant text, p_item jsonb, p_call spanledger.call, p_grants jsonb, p_now timestamptz)
returns jsonb
language plpgsql volatile
as $$
declare
    v_same boolean := p_call.fingerprint = decode(p_item ->> 'fingerprint', 'hex');
    v_answer jsonb := jsonb_build_object(
        'attempt', coalesce(p_call.attempt, 0), 'attempts', coalesce(p_call.attempts, 0));
    v_control text;
    v_refusal jsonb := spanledger.stopped(p_tenant, p_item);
    v_redact jsonb;
begin
    if v_refusal is null and p_grants -> 0 ? 'reason' then
        v_refusal := p_grants -> 0;
    end if;
    if v_refusal is null and p_grants @? '$[*].redact' then
        v_redact := jsonb_path_query_array(p_grants, '$[*].redact[*]');
        if not p_item ? 'redacts' then
            v_refusal := jsonb_path_query_first(p_grants, '$[*] ? (exists(@.redact))') - 'approval' || jsonb_build_object(
                'redact', v_redact, 'reason', 'its grant redacts what this program cannot keep from whom it calls');
        elsif not p_item -> 'redacts' @> v_redact then
            return v_answer || jsonb_build_object('verdict', 'unauthorized', 'obliges', v_redact);
        end if;
    end if;
    if v_refusal is not null then
        perform spanledger.refuse(p_tenant, p_item, p_call, v_refusal, p_now);
        return v_answer || v_refusal || '{"verdict": "unauthorized"}';
    end if;
    if p_call.state = 'approved' and v_same then
        return null;
    end if;
    if p_call.state = 'pending' and v_same then
        if p_call.approval_until <= p_now then
            perform spanledger.expire(p_call, p_now);
            return v_answer || jsonb_build_object('verdict', 'expired', 'approval_id', p_call.approval_id);
        end if;
        if p_item ? 'wait_s' then
            perform spanledger.wait_for(p_call, p_item, p_now);
        end if;
        return v_answer || jsonb_build_object('verdict', 'awaiting_approval', 'approval_id', p_call.approval_id,
            'left_s', extract(epoch from p_call.approval_until - p_now),
            -- The answer to the very begin that asked for it was lost.
            'requested', p_call.attempt_id = (p_item ->> 'attempt_id')::uuid);
    end if;
    if p_call.state in ('pending', 'approved') and p_call.waited_until > p_now and not v_same then
        -- Somebody waits for an answer about other arguments; to ask about these instead would go back and forth.
        return v_answer || jsonb_build_object('verdict', 'in_progress',
            'left_s', extract(epoch from p_call.waited_until - p_now));
    end if;
    v_control := coalesce(spanledger.approval_control(p_tenant, p_item, p_now), (
        select format('grant %s (version %s)', g ->> 'grant', g ->> 'version')
        from jsonb_array_elements(p_grants) g where g ? 'approval' limit 1));
    if v_control is null and coalesce(p_call.state, '') not in ('pending', 'approved')
        and not spanledger.needs_approval(p_tenant, p_item -> 'approval', p_item, p_now) then
        return null;
    end if;
    if (p_item ->> 'approval_covers_retries')::boolean and p_call.state <> 'succeeded' and exists (
        select from spanledger.approval a where a.tenant = p_tenant and a.id = p_call.approval_id
            and a.state = 'consumed' and a.fingerprint = decode(p_item ->> 'fingerprint', 'hex')) then
        return null;
    end if;
    if p_call.state = 'unknown' then
        -- What a person allowed may have happened: that has to be found out before anybody is asked to allow it again.
        return v_answer || '{"verdict": "outcome_unknown"}';
    end if;
    if p_item ->> 'fingerprint' is null then
        v_refusal := jsonb_build_object(
            'reason', 'it needs an approval, and nobody can approve arguments that it does not show');
        perform spanledger.refuse(p_tenant, p_item, p_call, v_refusal, p_now);
        return v_answer || v_refusal || '{"verdict": "unauthorized"}';
    end if;
    return v_answer || spanledger.ask_person(p_tenant, p_item, p_call, v_control, p_now);
end
$$;
