-- What an existing call says to a new begin. NULL: it may run, or to say more takes a write and so the lock.
create or replace function spanledger.judge(p_call spanledger.call, p_item jsonb, p_now timestamptz, p_locked boolean)
returns jsonb
language plpgsql volatile
as $$
declare
    v_state text := p_call.state;
    v_differs boolean := p_call.fingerprint is distinct from decode(p_item ->> 'fingerprint', 'hex')
        and p_call.fingerprint is not null and p_item ->> 'fingerprint' is not null;
    v_answer jsonb := spanledger.answer(p_call, p_item);
    -- Its end was told: this begin is late, or came twice, and starts nothing.
    v_over boolean := p_call.attempt_id = (p_item ->> 'attempt_id')::uuid and p_call.ended_at is not null
        and v_state in ('succeeded', 'failed', 'released', 'unknown', 'approved');
begin
    if p_item ? 'unguarded' and (p_call.attempt_id = (p_item ->> 'attempt_id')::uuid or exists (
        select from spanledger.history h
        where h.tenant = p_call.tenant and h.key = p_call.key and h.attempt_id = (p_item ->> 'attempt_id')::uuid
            and h.event in ('unguarded', 'superseded'))) then
        return v_answer || '{"verdict": "replay", "result_kept": false}';  -- it began, and was told, before
    end if;
    if v_over and v_state in ('failed', 'released', 'approved') then
        return v_answer || jsonb_build_object('verdict', 'failed', 'error', p_call.error);
    end if;
    if v_state in ('refused', 'released') then
        return null;  -- never ran
    end if;
    if v_state = 'in_flight' and p_call.attempt_id = (p_item ->> 'attempt_id')::uuid then
        if not p_locked then
            return null;  -- a lock makes a commit that waits for the standby, which the lost one may not have done
        end if;
        -- The answer to this very begin was lost.
        return v_answer || jsonb_build_object('verdict', 'run', 'again', true, 'budgets', (
            select coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('name', s.budget, 'unit', s.unit,
                'scope', nullif(s.scope, ''), 'reserved', r.amount, 'remaining', s.remaining_steps)) order by s.budget), '[]')
            from unnest(p_call.accounts, p_call.reserved) r (id, amount)
            cross join lateral spanledger.standing(r.id) s))
            || case when p_call.grants is null then '{}' else jsonb_build_object('grants', p_call.grants) end
            || spanledger.consent_of(p_call.tenant, p_call.approval_id, p_call.attempt_id);
    end if;
    if p_item ? 'delegation' and spanledger.permitted(p_call.tenant, p_item, p_now) -> 0 ? 'reason' then
        return null;  -- who may not act is told nothing of it, and that is decided with the claim
    end if;
    if v_differs and p_item ->> 'on_mismatch' = 'refuse' then
        return v_answer || '{"verdict": "key_reused"}';
    end if;
    if v_state in ('reopened', 'pending', 'approved') then
        return null;  -- a person said to run it again, or is asked: that is decided with the claim
    end if;
    if v_state in ('denied', 'expired') then
        return v_answer || jsonb_build_object('verdict', v_state, 'approval_id', p_call.approval_id,
            'by', p_call.error ->> 'by', 'reason', p_call.error ->> 'message');
    end if;
    if v_state = 'cancelled' then
        return v_answer || jsonb_build_object('verdict', 'cancelled',
            'by', p_call.error ->> 'by', 'reason', p_call.error ->> 'message');
    end if;
    if v_state = 'in_flight' then
        if p_call.lease_until > p_now then
            if p_item ? 'wait_s' then
                if not p_locked then
                    return null;
                end if;
                perform spanledger.wait_for(p_call, p_item, p_now);
            end if;
            return v_answer || jsonb_build_object('verdict', 'in_progress',
                'left_s', extract(epoch from p_call.lease_until - p_now));
        end if;
        if not p_locked then
            return null;
        end if;
        perform spanledger.lapse(p_call, p_now);
        v_state := 'unknown';
    end if;
    case v_state
    when 'succeeded' then
        if not v_over
            and p_call.ended_at + make_interval(secs => (p_item ->> 'replay_for_s')::double precision) <= p_now then
            return null;  -- a new generation
        end if;
        return v_answer || jsonb_build_object('verdict', 'replay',
            'result', p_call.result, 'result_kept', p_call.result_kept,
            'pruned_at', case when p_call.pruned_at >= p_call.ended_at then p_call.pruned_at end);
    when 'failed' then
        if p_item ->> 'on_failure' = 'retry'
            and (p_item ->> 'attempts_max' is null or p_call.attempts < (p_item ->> 'attempts_max')::integer) then
            return null;
        end if;
        return v_answer || jsonb_build_object('verdict', 'failed', 'error', p_call.error);
    when 'unknown' then
        if p_item ->> 'on_unknown' = 'retry' and not v_over then
            return null;
        end if;
        if p_item ->> 'on_unknown' = 'ask' or v_over then
            return v_answer || '{"verdict": "outcome_unknown"}';
        end if;
        if p_call.probe_until > p_now and p_call.probe_id is distinct from (p_item ->> 'attempt_id')::uuid then
            if p_item ? 'wait_s' then
                if not p_locked then
                    return null;
                end if;
                perform spanledger.wait_for(p_call, p_item, p_now);
            end if;
            return v_answer || jsonb_build_object('verdict', 'in_progress',
                'left_s', extract(epoch from p_call.probe_until - p_now));
        end if;
        if not p_locked then
            return null;
        end if;
        update spanledger.call c
            set probe_until = p_now + make_interval(secs => (p_item ->> 'probe_lease_s')::double precision),
                probe_id = (p_item ->> 'attempt_id')::uuid
            where c.tenant = p_call.tenant and c.key = p_call.key;
        return v_answer || '{"verdict": "outcome_unknown", "probe": true}';
    end case;
end
$$;
