-- Claim calls of which the first look found no row, where nothing but budgets restricts them. Whatever is not claimed
-- here is left without an answer: an operator's control is in force, somebody else was faster, or a budget has no room
-- for all of them. `p_budgeted` says whether a budget matches one, where that and that nothing else restricts them is
-- known.
drop function if exists spanledger.claim_fresh(text, jsonb, integer[], jsonb[]);
create or replace function spanledger.claim_fresh(
    p_tenant text, p_items jsonb, p_fresh integer[], p_answers jsonb[], p_budgeted boolean)
returns jsonb[]
language plpgsql volatile
as $$
declare
    v_run jsonb;
    v_found jsonb;
    v_controlled boolean;
    v_item integer;
begin
    if p_budgeted is null then
        select p_items @? '$[*] ? (exists(@.stopped) || exists(@.approval) || exists(@.permission)
                    || exists(@.delegation) || exists(@.alias_of))'
                or exists (select from spanledger.control c where c.tenant = p_tenant and c.active),
            exists (
                select from spanledger.budget b cross join unnest(p_fresh) f (i)
                where b.tenant = p_tenant and (p_items -> (f.i - 1) ->> 'tool') like b.match_like)
            into v_controlled, p_budgeted;
        if v_controlled then
            return p_answers;
        end if;
    end if;
    if p_budgeted then
        v_found := spanledger.claim_together(p_tenant, p_items, p_fresh);
        if v_found is null then
            return p_answers;
        end if;
    end if;
    v_run := jsonb_build_object('verdict', 'run', 'attempt', 1, 'attempts', 1, 'budgets', '[]'::jsonb,
        'now_s', extract(epoch from clock_timestamp()));
    foreach v_item in array spanledger.insert_calls(p_tenant, p_items, p_fresh, v_found) loop
        p_answers[v_item] := case when v_found ? v_item::text
            then v_run || jsonb_build_object('budgets', v_found -> v_item::text -> 'budgets') else v_run end;
    end loop;
    if v_found @? '$.*.budgets[*].soft' then
        perform spanledger.record_soft_limits(p_tenant, p_items -> (i::integer - 1), 1, v_found -> i -> 'budgets',
            clock_timestamp()) from jsonb_object_keys(v_found) i;
    end if;
    return p_answers;
end
$$;
