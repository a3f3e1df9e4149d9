-- Remove what is over and older than it need be kept, a bounded number of each kind: {counts, before, more}; whoever asks
-- goes on while there is more. p_what has an age in seconds for `calls` (with their history, requests for consent, closed
-- windows of budgets and expired delegations), for the `trail` (with sessions) and for `evaluations`, each optional. How
-- old something is, is said by this clock. Of a call its key stays, with what it was and how it ended, so that it does not
-- run again: only its payload goes. With `forget_keys` the key goes too, and a call of it would run. With `dry_run` nothing
-- is written, and counted are at most so many of each kind as `prunable` says.
--
-- An outcome that comes after all that is booked if it never was, and once: of attempts without one, and of outcomes that
-- came late, it stays what says so, while the key does. Accounts of windows that are over are gone.
--
-- Nobody is waited for but another prune of the same tenant: what somebody else has locked is left for the next time. An
-- hour is the least age: nothing that old is under way without being marked so, nor do windows that closed then count.
create or replace function spanledger_v1.prune(p_tenant text, p_what jsonb, p_by text, p_rows_max integer default 500)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
-- In order of age, by the indexes that are made for it: of a table of which nobody has taken statistics since it grew, the
-- planner would read all for each batch. What was found and locked is then reached by its place, which nobody changes.
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_forget boolean := coalesce((p_what ->> 'forget_keys')::boolean, false);
    v_before jsonb;
    v_counts jsonb := '{}';
begin
    perform spanledger.require(p_tenant, 'prune');
    select coalesce(jsonb_object_agg(a.part, v_now - make_interval(secs => a.age_s::double precision)), '{}') into v_before
        from jsonb_each_text(p_what - '{forget_keys,dry_run}'::text[]) a (part, age_s);
    if v_before = '{}' or v_before - '{calls,trail,evaluations}'::text[] <> '{}' then
        raise exception 'what is pruned is calls, trail or evaluations' using errcode = 'SL001';
    elsif exists (select from jsonb_each_text(v_before) b where b.value::timestamptz > v_now - interval '1 hour') then
        raise exception 'what is pruned is at least an hour old' using errcode = 'SL001';
    elsif coalesce(btrim(p_by), '') = '' then
        raise exception 'whoever prunes needs a name: by' using errcode = 'SL001';
    end if;
    if (p_what ->> 'dry_run')::boolean then
        return jsonb_build_object('before', v_before, 'more', false,
            'counts', spanledger.prunable(p_tenant, v_before, v_forget));
    end if;
    insert into spanledger.pruning as p (tenant, part, before, forgot_keys, pruned_at, by_name)
        select p_tenant, b.key, b.value::timestamptz, v_forget and b.key = 'calls', v_now, p_by
        from jsonb_each_text(v_before) b order by b.key
        on conflict (tenant, part) do update set before = greatest(p.before, excluded.before),
            forgot_keys = p.forgot_keys or excluded.forgot_keys, pruned_at = excluded.pruned_at,
            by_name = excluded.by_name, by_role = excluded.by_role;
    if v_before ? 'calls' then
        v_counts := v_counts
            || spanledger.prune_calls(p_tenant, (v_before ->> 'calls')::timestamptz, v_forget, p_rows_max)
            || spanledger.prune_beside_calls(p_tenant, (v_before ->> 'calls')::timestamptz, p_rows_max);
    end if;
    if v_before ? 'trail' then
        v_counts := v_counts || spanledger.prune_trail(p_tenant, (v_before ->> 'trail')::timestamptz, p_rows_max);
    end if;
    if v_before ? 'evaluations' then
        v_counts := v_counts
            || spanledger.prune_evaluations(p_tenant, (v_before ->> 'evaluations')::timestamptz, p_rows_max);
    end if;
    return jsonb_build_object('before', v_before, 'counts', v_counts - 'more', 'more', v_counts -> 'more' is not null);
end
$$;
