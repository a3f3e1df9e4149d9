-- Claim calls of which the first look found no row, where no operator's control is in force. Whatever is not claimed
-- here is left without an answer: somebody else was faster, or a budget has no room for all of them.
create or replace function spanledger.claim_fresh(
    p_tenant text, p_items jsonb, p_fresh integer[], p_answers jsonb[])
returns jsonb[]
language plpgsql volatile
as $$
declare
    v_run constant jsonb := '{"verdict": "run", "attempt": 1, "attempts": 1, "budgets": []}';
    v_found jsonb;
    v_item integer;
begin
    if exists (select from spanledger.budget b where b.tenant = p_tenant) then
        -- Behind the claims' locks: what is not there now is there before us no more.
        -- A scalar subquery, because the planner would take a small table to be read faster as a whole.
        if cardinality(p_fresh) > (
            select count(distinct i.key) from (select p_items -> (f.i - 1) ->> 'key' as key from unnest(p_fresh) f (i)) i
            where (select true from spanledger.call c
                where c.tenant = p_tenant and c.key = decode(i.key, 'hex')) is null)
        then
            return p_answers;
        end if;
        v_found := spanledger.claim_together(p_tenant, p_items, p_fresh);
        if v_found is null then
            return p_answers;
        end if;
    end if;
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
