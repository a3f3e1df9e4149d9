-- These calls failed. `not_invoked`: claimed, and provably never started; where the claim is not there, its begin may be
-- on its way, and finds that it is over. `outcome_unknown`: they may have taken effect, so what they hold stays held until
-- somebody finds out. Otherwise it is released. Per item: owned is false where another attempt owns the call; known is false
-- where there is no such call: it has to be told again, of one that never started, and else nobody will hear of it.
create or replace function spanledger_v1.fail(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    v_answers jsonb[] := array_fill(null::jsonb, array[jsonb_array_length(p_items)]);
    v_call spanledger.call;
    v_item jsonb;
    v_unknown boolean;
    v_not_invoked boolean;
    v_approved boolean;
    v_alone boolean := false;
    v_i integer;
begin
    perform spanledger.require(p_tenant, 'fail');
    if p_items @? '$[*] ? (@.not_invoked == true)' then
        -- Whoever gives a claim back may have had no answer to its begin, which may be about to make it. But it may be
        -- somebody else who is stuck there, and whoever was interrupted wants to go.
        begin
            perform set_config('lock_timeout', '1s', true);
            perform spanledger.lock_claims(p_tenant, p_items, array(
                select i from generate_series(1, jsonb_array_length(p_items)) i
                where p_items -> (i - 1) -> 'not_invoked' = 'true'));
            perform set_config('lock_timeout', '10s', true);
            v_alone := true;
        exception when lock_not_available then
            null;
        end;
    end if;
    perform spanledger.lock_items(p_tenant, p_items);
    for v_i, v_item in select item.i, item.item from jsonb_array_elements(p_items) with ordinality item (item, i)
        order by item.item ->> 'key', item.i
    loop
        select * into v_call from spanledger.call c
            where c.tenant = p_tenant and c.key = decode(v_item ->> 'key', 'hex') for update skip locked;
        v_unknown := coalesce((v_item ->> 'outcome_unknown')::boolean, false);
        v_not_invoked := coalesce((v_item ->> 'not_invoked')::boolean, false);
        v_approved := false;
        v_answers[v_i] := '{"owned": true}';
        if v_call.attempt_id is distinct from (v_item ->> 'attempt_id')::uuid
            or v_call.state not in ('in_flight', 'unknown', 'failed', 'released', 'approved') then
            if v_not_invoked then
                perform spanledger.forestall(p_tenant, v_item, v_call, v_alone);
            else
                if spanledger.is_erased(p_tenant, v_item, v_call) then
                    v_item := spanledger.without_payload(v_item);
                end if;
                perform spanledger.record_late(p_tenant, v_item, v_call, 'late_failure', clock_timestamp());
            end if;
            v_answers[v_i] := case when v_call.tenant is null and not (v_not_invoked and v_alone)
                then '{"owned": false, "known": false}'::jsonb else '{"owned": false}' end;
        elsif v_call.state = 'failed' and v_call.error ->> 'type' in ('lost', 'resolved') and not v_not_invoked then
            -- Somebody else said so; what it cost, its worker says now.
            if spanledger.is_erased(p_tenant, v_item, v_call) then
                v_item := spanledger.without_payload(v_item);
            end if;
            perform spanledger.record_late(p_tenant, v_item, v_call, 'late_failure', clock_timestamp());
        elsif v_call.state = 'in_flight' or (v_call.state = 'unknown' and (not v_unknown or v_call.error is null)) then
            if not v_unknown then
                perform spanledger.book(v_call, v_call.held, v_item -> 'cost', true, false);
            end if;
            if v_not_invoked then
                -- Nothing was done with a person's consent; it is there for the next attempt.
                update spanledger.approval a set state = 'approved', consumed_at = null, consumed_by = null
                    where a.tenant = p_tenant and a.id = v_call.approval_id and a.state = 'consumed'
                        and a.consumed_by = v_call.attempt_id;
                v_approved := found;
            end if;
            if v_call.erased_at is not null then
                v_item := spanledger.without_payload(v_item);
            end if;
            update spanledger.call c set
                state = case when v_unknown then 'unknown' when v_approved then 'approved'
                    when v_not_invoked and c.attempts = 1 then 'released' else 'failed' end,
                attempts = c.attempts - case when v_not_invoked then 1 else 0 end,
                error = coalesce(v_item -> 'error', '{"type": "not_invoked", "message": "interrupted before it ran"}'),
                held = case when v_unknown then c.held else '{}' end,
                cost = v_item -> 'cost', usage = v_item -> 'usage', lease_until = null, ended_at = clock_timestamp()
                where c.tenant = v_call.tenant and c.key = v_call.key;
            perform spanledger.wake(v_call, clock_timestamp());
        end if;
    end loop;
    if p_items @? '$[*].ran' then
        perform spanledger.record_unguarded(p_tenant, p_items, clock_timestamp());
    end if;
    return to_jsonb(v_answers);
end
$$;
