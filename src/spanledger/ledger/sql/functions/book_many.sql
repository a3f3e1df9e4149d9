-- Book many calls at once; `spanledger.book` has the meaning of each. Every account is written once, in their order. What
-- is beyond counting, four times whatever a limit can be, is not counted: else nobody could book on that account any more.
create or replace function spanledger.book_many(p_tenant text, p_bookings jsonb)
returns void
language plpgsql volatile
as $$
declare
    v_overrun jsonb;
    v_unconverted jsonb;
    v_change record;
begin
    for v_change in
        select b.id, sum(b.released)::bigint as released, least(sum(b.spent), 4000000000000000000)::bigint as spent,
            jsonb_agg(jsonb_build_object('key', b.key, 'id', b.id)) filter (where b.spent > b.released) as overrun,
            jsonb_agg(jsonb_build_object('key', b.key, 'id', b.id, 'cost', b.cost, 'counted', b.spent))
                filter (where b.cost is not null) as unconverted
        from (
            select booking ->> 'key' as key, (account.value #>> '{}')::bigint as id,
                case when (booking -> 'release')::boolean then k.amount else 0 end as released,
                -- What it costs to ask `spent_of` is paid by those who say what they cost.
                case when coalesce(booking -> 'cost', '{}') in ('{}', 'null')
                    then case when (booking -> 'spend')::boolean then k.amount else 0 end
                    else spanledger.spent_of(p_tenant, booking, booking -> 'units' ->> k.i, k.amount) end as spent,
                case when coalesce(booking -> 'cost', '{}') not in ('{}', 'null')
                    and booking -> 'units' ->> k.i not in ('calls', 'tokens')
                    and not booking -> 'cost' ? (booking -> 'units' ->> k.i)
                    then spanledger.unconverted(p_tenant, booking, booking -> 'units' ->> k.i) end as cost
            from jsonb_array_elements(p_bookings) booking
            cross join lateral jsonb_array_elements(booking -> 'accounts') with ordinality account (value, n)
            cross join lateral (select account.n::integer - 1 as i,
                (booking -> 'amounts' ->> (account.n::integer - 1))::bigint as amount) k
        ) b
        group by b.id order by b.id
    loop
        update spanledger.account a set held = a.held - v_change.released,
                spent = a.spent + least(v_change.spent, 4000000000000000000 - a.spent)
            where a.id = v_change.id;
        v_overrun := coalesce(v_overrun || v_change.overrun, v_change.overrun, v_overrun);
        v_unconverted := coalesce(v_unconverted || v_change.unconverted, v_change.unconverted, v_unconverted);
    end loop;
    if v_unconverted is not null then
        perform spanledger.record_unconverted(p_tenant, v_unconverted);
    end if;
    if v_overrun is not null then
        perform spanledger.record_overruns(p_tenant, v_overrun);
    end if;
end
$$;
