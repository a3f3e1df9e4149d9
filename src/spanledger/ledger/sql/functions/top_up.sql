-- Raise what a budget may spend in its present window; of one that is kept apart, in one scope, {"actor": "u_42"}.
-- Returns whether there is such a budget in that unit. Asked again with the same id, because the answer was lost, it is
-- done once.
drop function if exists spanledger_v1.top_up(text, text, text, bigint, text, jsonb);
create or replace function spanledger_v1.top_up(
    p_tenant text, p_budget text, p_unit text, p_steps bigint, p_by text, p_scope jsonb default '{}',
    p_id uuid default null)
returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    v_budget spanledger.budget;
    v_scope text := '';
    v_now timestamptz := clock_timestamp();
begin
    perform spanledger.require(p_tenant, 'top_up');
    select * into v_budget from spanledger.budget b
        where b.tenant = p_tenant and b.name = p_budget and b.unit = p_unit for no key update;
    if not found then
        return false;
    end if;
    if exists (select from spanledger.history h where h.tenant = p_tenant and h.key = ''::bytea
        and h.event = 'topped_up' and h.attempt_id = p_id) then
        return true;
    end if;
    if v_budget.per <> '{}' then
        if not p_scope ?& v_budget.per or (select count(*) from jsonb_object_keys(p_scope)) > cardinality(v_budget.per) then
            raise exception 'budget % is kept apart by %; say whose is topped up', p_budget,
                array_to_string(v_budget.per, ', ') using errcode = 'SL001';
        end if;
        v_scope := p_scope::text;
    end if;
    if v_budget.limit_steps::numeric + p_steps + coalesce((
        select sum(a.topped_up) from spanledger.account a
        where a.tenant = p_tenant and a.budget = p_budget and a.scope = v_scope and a.window_start >= spanledger.live_since(
            v_budget.window_kind, v_budget.window_s, v_budget.timezone, v_now)), 0) >= 1000000000000000000 then
        raise exception 'budget % cannot be topped up by so much: with what it may spend already, that is beyond counting',
            p_budget using errcode = 'SL001';
    end if;
    insert into spanledger.account as a (tenant, budget, scope, window_start, topped_up)
        values (p_tenant, p_budget, v_scope, spanledger.window_start(
            v_budget.window_kind, v_budget.window_s, v_budget.timezone, v_now), p_steps)
        on conflict (tenant, budget, scope, window_start) do update set topped_up = a.topped_up + p_steps;
    insert into spanledger.history (tenant, key, at, event, attempt, attempt_id, by_name, detail)
        values (p_tenant, ''::bytea, v_now, 'topped_up', 0, p_id, p_by, jsonb_build_object(
            'budget', p_budget, 'unit', p_unit, 'steps', p_steps, 'scope', v_scope));
    return true;
end
$$;
