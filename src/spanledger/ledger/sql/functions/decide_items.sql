-- A person's answer to requests for consent; the state is 'approved' or 'denied'. The first answer counts, the same one
-- again is no news, and who asked may not approve, unless the rule said so.
create or replace function spanledger.decide_items(p_tenant text, p_items jsonb, p_state text)
returns jsonb
language plpgsql volatile
as $$
declare
    v_answers jsonb[] := array_fill(null::jsonb, array[jsonb_array_length(p_items)]);
    v_approval spanledger.approval;
    v_call spanledger.call;
    v_item jsonb;
    v_now timestamptz;
    v_i integer;
begin
    for v_i, v_item in select item.i, item.item
        from jsonb_array_elements(p_items) with ordinality item (item, i)
        left join spanledger.approval a on a.tenant = p_tenant and a.id = (item.item ->> 'id')::uuid
        order by a.key, item.i
    loop
        select c.* into v_call from spanledger.call c
            join spanledger.approval a on a.tenant = p_tenant and a.key = c.key and a.id = (v_item ->> 'id')::uuid
            where c.tenant = p_tenant for update of c;
        select * into v_approval from spanledger.approval a
            where a.tenant = p_tenant and a.id = (v_item ->> 'id')::uuid for update;
        v_now := clock_timestamp();
        if coalesce(btrim(v_item ->> 'by'), '') = '' then
            raise exception 'an answer to a request for consent needs a name: by' using errcode = 'SL001';
        end if;
        if v_approval.state = 'pending' and v_approval.expires_at <= v_now then
            perform spanledger.expire(v_call, v_now);
            v_approval.state := 'expired';
        end if;
        if v_approval.state is distinct from 'pending' then
            v_answers[v_i] := jsonb_build_object('state', v_approval.state, 'by', v_approval.by_name,
                'done', coalesce(case v_approval.state when 'consumed' then 'approved' else v_approval.state end = p_state,
                    false));
            continue;
        end if;
        if p_state = 'approved' and not v_approval.self_approval
            and lower(btrim(v_item ->> 'by')) in (lower(btrim(v_approval.actor)), lower(btrim(v_approval.agent))) then
            v_answers[v_i] := '{"done": false, "state": "pending", "self": true}';
            continue;
        end if;
        update spanledger.approval a set state = p_state, decided_at = v_now, by_name = v_item ->> 'by',
            by_role = session_user, note = v_item ->> 'note'
            where a.tenant = p_tenant and a.id = v_approval.id;
        update spanledger.call c set state = p_state,
            ended_at = case p_state when 'denied' then v_now end,
            error = case p_state when 'denied' then jsonb_build_object(
                'type', 'denied', 'message', v_item ->> 'note', 'by', v_item ->> 'by') end
            where c.tenant = p_tenant and c.key = v_approval.key and c.approval_id = v_approval.id
                and c.state = 'pending';
        insert into spanledger.history (tenant, key, at, event, attempt, by_name, detail)
            values (p_tenant, v_approval.key, v_now, p_state, v_call.attempt, v_item ->> 'by', jsonb_strip_nulls(
                jsonb_build_object('approval_id', v_approval.id, 'note', v_item ->> 'note',
                    'fingerprint', encode(v_approval.fingerprint, 'hex'))));
        perform spanledger.wake(v_call, v_now);
        v_answers[v_i] := jsonb_build_object('done', true, 'state', p_state, 'by', v_item ->> 'by');
    end loop;
    return to_jsonb(v_answers);
end
$$;
