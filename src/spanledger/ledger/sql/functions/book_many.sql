-- Book many calls at once; `spanledger.book` has the meaning of each. Every account is written once.
create or replace function spanledger.book_many(p_tenant text, p_bookings jsonb)
returns void
language plpgsql volatile
as $$
declare
    v_overrun jsonb;
begin
    if jsonb_array_length(p_bookings) > 1 or jsonb_array_length(p_bookings -> 0 -> 'accounts') > 1 then
        perform from spanledger.account a
            where a.id in (select u.id::bigint from jsonb_array_elements(p_bookings) b
                cross join jsonb_array_elements_text(b -> 'accounts') u (id))
            order by a.id for update;
    end if;
    with booked as (
        select b.key, u.id, case when b.release then u.amount else 0 end as released,
            case when d.unit = 'calls' then case when b.spend then u.amount else 0 end
                else coalesce(spanledger.amount_in(p_tenant, b.cost, d.unit, b.at),
                    case when b.spend then u.amount else 0 end) end as spent
        from jsonb_to_recordset(p_bookings) b (
            key text, accounts bigint[], amounts bigint[], cost jsonb, spend boolean, release boolean, at timestamptz)
        cross join unnest(b.accounts, b.amounts) u (id, amount)
        join spanledger.account a on a.id = u.id
        join spanledger.budget d on d.tenant = a.tenant and d.name = a.budget
    ), written as (
        update spanledger.account a set held = a.held - s.released, spent = a.spent + s.spent
            from (select b.id, sum(b.released)::bigint as released, sum(b.spent)::bigint as spent
                from booked b group by b.id) s
            where a.id = s.id
    )
    select jsonb_agg(jsonb_build_object('key', b.key, 'id', b.id)) into v_overrun
        from booked b where b.spent > b.released;
    if v_overrun is not null then
        perform spanledger.record_overruns(p_tenant, v_overrun);
    end if;
end
$$;
