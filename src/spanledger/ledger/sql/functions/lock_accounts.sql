-- Lock every account that is wanted, or that a call still holds from, by id, and say how each stands. An account of a
-- rolling window stands as all its live slices together; its head row is the lock of them all. `own` is what the row
-- itself holds; an older slice from which a call still holds `counts_in` the account of its window.
create or replace function spanledger.lock_accounts(p_wanted jsonb, p_calls spanledger.call[])
returns jsonb
language plpgsql volatile
as $$
declare
    v_ids bigint[];
    v_accounts jsonb;
    v_slice record;
begin
    select array_agg(distinct ids.id) into v_ids
    from (
        select (w ->> part)::bigint as id
        from jsonb_each(p_wanted) e cross join jsonb_array_elements(e.value) w
        cross join unnest('{id,head}'::text[]) part
        union all
        select unnest(c.accounts) from unnest(p_calls) c where c.held <> '{}'
    ) ids
    where ids.id is not null;
    with locked as (
        select a.id, a.spent, a.held, a.topped_up from spanledger.account a
        where a.id = any (v_ids) order by a.id for update
    )
    select jsonb_object_agg(l.id, jsonb_build_object(
            'spent', l.spent, 'held', l.held, 'topped_up', l.topped_up, 'own', l.held))
        into v_accounts from locked l;
    if not p_wanted @? '$.*[*].head ? (@ != null)' then
        return v_accounts;
    end if;
    for v_slice in
        select a.id, array_agg(s.id) filter (where s.id = any (v_ids) and s.id <> a.id) as others,
            least(sum(s.spent), 4000000000000000000)::bigint as spent, sum(s.held)::bigint as held,
            least(sum(s.topped_up), 1000000000000000000)::bigint as topped_up
        from (select distinct (w ->> 'id')::bigint as id from jsonb_each(p_wanted) e
            cross join jsonb_array_elements(e.value) w where w -> 'head' <> 'null') wanted
        join spanledger.account a on a.id = wanted.id
        join spanledger.budget b on b.tenant = a.tenant and b.name = a.budget
        join spanledger.account s on s.tenant = a.tenant and s.budget = a.budget and s.scope = a.scope
            and s.window_start >= spanledger.live_since(b.window_kind, b.window_s, b.timezone, clock_timestamp())
        group by a.id
    loop
        v_accounts := jsonb_set(v_accounts, array[v_slice.id::text], v_accounts -> v_slice.id::text
            || jsonb_build_object('spent', v_slice.spent, 'held', v_slice.held, 'topped_up', v_slice.topped_up));
        select v_accounts || coalesce(jsonb_object_agg(o.id, v_accounts -> o.id::text
                || jsonb_build_object('counts_in', v_slice.id)), '{}')
            into v_accounts from unnest(v_slice.others) o (id);
    end loop;
    return v_accounts;
end
$$;
