-- Somebody found out what became of calls of unknown outcome. outcome: succeeded, failed, retry; unknown gives a
-- probe's lease back. `attempt`, where given, must be the current one: a slow probe must not judge a newer run.
create or replace function spanledger.resolve_items(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql volatile
as $$
declare
    v_answers jsonb[] := array_fill(null::jsonb, array[jsonb_array_length(p_items)]);
    v_call spanledger.call;
    v_item jsonb;
    v_now timestamptz;
    v_outcome text;
    v_i integer;
begin
    perform spanledger.lock_items(p_tenant, p_items);
    for v_i, v_item in select item.i, item.item from jsonb_array_elements(p_items) with ordinality item (item, i)
        order by item.item ->> 'key', item.i
    loop
        select * into v_call from spanledger.call c
            where c.tenant = p_tenant and c.key = decode(v_item ->> 'key', 'hex') for update skip locked;
        v_now := clock_timestamp();
        v_outcome := v_item ->> 'outcome';
        if v_call.state = 'in_flight' and v_call.lease_until <= v_now then
            perform spanledger.lapse(v_call, v_now);
            v_call.state := 'unknown';
        end if;
        if v_call.state = 'pending' and v_call.approval_until <= v_now then
            perform spanledger.expire(v_call, v_now);
            v_call.state := 'expired';
        end if;
        if v_call.tenant is null
            or v_call.attempt <> coalesce((v_item ->> 'attempt')::integer, v_call.attempt)
            or not (v_call.state = 'unknown' or (v_outcome = 'retry'
                and v_call.state in ('failed', 'cancelled', 'denied', 'expired'))) then
            v_answers[v_i] := jsonb_build_object('done', false, 'state', v_call.state);
            continue;
        end if;
        if v_outcome = 'unknown' then
            update spanledger.call c set probe_until = null where c.tenant = p_tenant and c.key = v_call.key;
            perform spanledger.wake(v_call, v_now);
            v_answers[v_i] := '{"done": true, "state": "unknown"}';
            continue;
        end if;
        v_call.cost := coalesce(nullif(v_item -> 'cost', '{}'), v_call.cost);
        if v_outcome in ('succeeded', 'failed') then
            perform spanledger.book(v_call, v_call.held, case v_outcome when 'succeeded' then v_call.cost end,
                true, v_outcome = 'succeeded');
        end if;
        if v_outcome <> 'succeeded' then
            perform spanledger.spend_told(v_call, v_now);
        end if;
        if v_call.erased_at is not null and v_item ? 'probe_id' then
            -- What a person says of it now is new; what a probe finds out was erased.
            v_item := spanledger.without_payload(v_item);
        end if;
        insert into spanledger.history (tenant, key, at, event, attempt, attempt_id, by_name, detail)
            values (p_tenant, v_call.key, v_now, 'resolved', v_call.attempt, v_call.attempt_id, v_item ->> 'by',
                jsonb_strip_nulls(jsonb_build_object(
                    'outcome', v_outcome, 'reason', v_item ->> 'reason', 'error', v_call.error,
                    'state', case v_outcome when 'retry' then 'reopened' else v_outcome end,
                    'accounts', v_call.accounts, 'held', v_call.held)));
        update spanledger.call c set
            state = case v_outcome when 'retry' then 'reopened' else v_outcome end,
            result = v_item ->> 'result',
            result_kept = coalesce((v_item ->> 'result_kept')::boolean, false),
            error = case when v_outcome = 'failed'
                then jsonb_build_object('type', 'resolved', 'message', coalesce(v_item ->> 'reason', 'resolved as failed'))
                else c.error end,
            held = case v_outcome when 'retry' then c.held else '{}' end,
            probe_until = null, lease_until = null, ended_at = v_now
            where c.tenant = p_tenant and c.key = v_call.key;
        perform spanledger.wake(v_call, v_now);
        v_answers[v_i] := jsonb_build_object('done', true,
            'state', case v_outcome when 'retry' then 'reopened' else v_outcome end);
    end loop;
    return to_jsonb(v_answers);
end
$$;
