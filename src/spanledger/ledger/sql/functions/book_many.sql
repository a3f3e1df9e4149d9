-- Book many calls at once; `spanledger.book` has the meaning of each. Every account is written once, in their order.
create or replace function spanledger.book_many(p_tenant text, p_bookings jsonb)
returns void
language plpgsql volatile
as $$
declare
    v_changes jsonb := '{}';
    v_overrun jsonb := '[]';
    v_booking jsonb;
    v_id text;
    v_amount bigint;
    v_spent bigint;
    v_i integer;
begin
    for v_booking in select value from jsonb_array_elements(p_bookings) loop
        for v_i in 0 .. jsonb_array_length(v_booking -> 'accounts') - 1 loop
            v_id := v_booking -> 'accounts' ->> v_i;
            v_amount := (v_booking -> 'amounts' ->> v_i)::bigint;
            v_spent := spanledger.spent_of(p_tenant, v_booking, v_booking -> 'units' ->> v_i, v_amount);
            v_amount := case when (v_booking -> 'release')::boolean then v_amount else 0 end;
            if v_spent > v_amount then
                v_overrun := v_overrun || jsonb_build_object('key', v_booking -> 'key', 'id', v_id::bigint);
            end if;
            v_changes := v_changes || jsonb_build_object(v_id, jsonb_build_array(
                coalesce((v_changes -> v_id ->> 0)::bigint, 0) + v_amount,
                coalesce((v_changes -> v_id ->> 1)::bigint, 0) + v_spent));
        end loop;
    end loop;
    for v_id in select k from jsonb_object_keys(v_changes) k order by k::bigint loop
        update spanledger.account a set
            held = a.held - (v_changes -> v_id ->> 0)::bigint, spent = a.spent + (v_changes -> v_id ->> 1)::bigint
            where a.id = v_id::bigint;
    end loop;
    if v_overrun <> '[]' then
        perform spanledger.record_overruns(p_tenant, v_overrun);
    end if;
end
$$;
