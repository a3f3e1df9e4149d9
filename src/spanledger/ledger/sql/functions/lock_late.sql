-- Lock what late outcomes may be booked on, as `lock_items` does; and the accounts that some would have reserved from, had
-- they been admitted. Those of `p_owned` are not late.
create or replace function spanledger.lock_late(p_tenant text, p_items jsonb, p_owned integer[], p_now timestamptz)
returns void
language plpgsql volatile
as $$
declare
    v_ids bigint[] := '{}';
    v_call spanledger.call;
    v_item jsonb;
    v_mine boolean;
    v_past jsonb;
begin
    perform spanledger.lock_calls(p_tenant, p_items);
    if jsonb_array_length(p_items) < 2 then
        return;
    end if;
    for v_item in select e.item from jsonb_array_elements(p_items) with ordinality e (item, i)
        where e.i <> all (coalesce(p_owned, '{}'))
    loop
        select * into v_call from spanledger.call c
            where c.tenant = p_tenant and c.key = decode(v_item ->> 'key', 'hex');
        continue when not found;
        v_mine := v_call.attempt_id = (v_item ->> 'attempt_id')::uuid;
        if v_mine then
            continue when v_call.accounts <> '{}' or v_call.state = 'succeeded';
        else
            select h.detail -> 'accounts' into v_past from spanledger.history h
                where h.tenant = p_tenant and h.key = v_call.key and h.event = 'superseded'
                    and h.attempt_id = (v_item ->> 'attempt_id')::uuid
                order by h.id desc limit 1;
            continue when coalesce(v_past, '[]') <> '[]'
                or not (found or v_item ? 'ran' or v_item -> 'admitted' = 'false');
        end if;
        v_call := spanledger.booked_as(v_item, v_call, case when v_mine then v_call.started_at else p_now end);
        v_ids := v_ids || v_call.accounts;
    end loop;
    perform from spanledger.account a
        where a.id = any (v_ids) or a.id in (select spanledger.bookable(p_tenant, p_items))
        order by a.id for update;
end
$$;
