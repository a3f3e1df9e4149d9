-- A person says that these calls shall not run (any more): final under their keys until somebody says retry. What runs
-- cannot be cancelled, nor what succeeded. One of unknown outcome counts as failed: what it holds is released.
create or replace function spanledger_v1.cancel(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    v_answers jsonb[] := array_fill(null::jsonb, array[jsonb_array_length(p_items)]);
    v_call spanledger.call;
    v_item jsonb;
    v_now timestamptz;
    v_i integer;
begin
    perform spanledger.require(p_tenant, 'cancel');
    perform spanledger.lock_items(p_tenant, p_items);
    for v_i, v_item in select item.i, item.item from jsonb_array_elements(p_items) with ordinality item (item, i)
        order by item.item ->> 'key', item.i
    loop
        select * into v_call from spanledger.call c
            where c.tenant = p_tenant and c.key = decode(v_item ->> 'key', 'hex') for update skip locked;
        v_now := clock_timestamp();
        if v_call.state = 'in_flight' and v_call.lease_until <= v_now then
            perform spanledger.lapse(v_call, v_now);
            v_call.state := 'unknown';
        end if;
        v_answers[v_i] := jsonb_build_object(
            'done', coalesce(v_call.state not in ('in_flight', 'succeeded'), false), 'state', v_call.state);
        if (v_answers[v_i] -> 'done')::boolean and v_call.state <> 'cancelled' then
            if v_call.held <> '{}' then
                perform spanledger.book(v_call, v_call.held, null, true, false);
            end if;
            perform spanledger.spend_told(v_call, v_now);
            if v_call.state = 'failed' and coalesce(v_call.cost, '{}') <> '{}'
                and coalesce(v_call.error ->> 'type', '') not in ('lost', 'resolved') then
                -- Its worker may tell it again, and the row does not say any more that it has.
                insert into spanledger.history (tenant, key, at, event, attempt, attempt_id, detail)
                    values (p_tenant, v_call.key, v_now, 'failure_spent', v_call.attempt, v_call.attempt_id,
                        jsonb_build_object('cost', v_call.cost));
            end if;
            insert into spanledger.history (tenant, key, at, event, attempt, attempt_id, by_name, detail)
                values (p_tenant, v_call.key, v_now, 'cancelled', v_call.attempt, v_call.attempt_id, v_item ->> 'by',
                    jsonb_strip_nulls(jsonb_build_object(
                        'reason', v_item ->> 'reason', 'error', v_call.error, 'refusal', v_call.refusal,
                        'state', v_call.state, 'accounts', v_call.accounts, 'held', v_call.held)));
            update spanledger.call c set
                state = 'cancelled', held = '{}', probe_until = null, lease_until = null, ended_at = v_now,
                error = jsonb_build_object('type', 'cancelled', 'message', v_item ->> 'reason', 'by', v_item ->> 'by')
                where c.tenant = p_tenant and c.key = v_call.key;
            update spanledger.approval a set state = 'cancelled'
                where a.tenant = p_tenant and a.id = v_call.approval_id and a.state in ('pending', 'approved');
            perform spanledger.wake(v_call, v_now);
            v_answers[v_i] := '{"done": true, "state": "cancelled"}';
        end if;
    end loop;
    return to_jsonb(v_answers);
end
$$;
