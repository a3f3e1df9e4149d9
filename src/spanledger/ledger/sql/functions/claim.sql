-- Decide the items that have no answer yet, in their order: reserve from every matching budget and claim the call, ask
-- a person, or refuse. Every call is locked already. Amounts that a call still holds from an attempt of unknown outcome
-- are given back to it first. New calls are written together, as accounts are, when all is decided.
create or replace function spanledger.claim(
    p_tenant text, p_items jsonb, p_calls spanledger.call[], p_answers jsonb[])
returns jsonb[]
language plpgsql volatile
as $$
declare
    v_open integer[] := array(select i from generate_subscripts(p_answers, 1) i where p_answers[i] is null);
    v_wanted jsonb;
    v_accounts jsonb := '{}';
    v_fresh integer[] := '{}';
    v_founds jsonb := '{}';
    v_keys text[] := '{}';
    v_now timestamptz;
    v_item jsonb;
    v_call spanledger.call;
    v_found jsonb;
    v_controlled boolean;
    v_grants jsonb;
    v_granted jsonb := '{}';
    v_i integer;
begin
    if v_open = '{}' then
        return p_answers;
    end if;
    if exists (select from spanledger.budget b where b.tenant = p_tenant) then
        v_wanted := spanledger.wanted(p_tenant, p_items, v_open);
        if p_items @? '$[*].delegation' then
            v_wanted := spanledger.pools(p_tenant, p_items, v_open, v_wanted);
        end if;
        if p_items @? '$[*].alias_of' then
            v_wanted := spanledger.covered(p_tenant, p_items, v_wanted);
        end if;
    end if;
    if v_wanted is not null or exists (select from unnest(p_calls) c where c.held <> '{}') then
        v_accounts := spanledger.lock_accounts(coalesce(v_wanted, '{}'), p_calls);
    end if;
    v_controlled := exists (select from spanledger.control c where c.tenant = p_tenant and c.active);
    v_now := clock_timestamp();
    foreach v_i in array v_open loop
        v_item := p_items -> (v_i - 1);
        v_call := p_calls[v_i];
        if v_item ->> 'key' = any (v_keys) then
            p_answers[v_i] := '{"verdict": "in_progress", "attempt": 0, "attempts": 0, "left_s": 0.01}';
            continue;
        end if;
        v_keys := v_keys || (v_item ->> 'key');
        v_grants := null;
        if v_controlled or v_item ?| '{stopped,approval,permission,delegation}' or v_call.state in ('pending', 'approved') then
            v_grants := spanledger.permitted(p_tenant, v_item, v_now);
            perform spanledger.hold(v_accounts);
            p_answers[v_i] := spanledger.consent(p_tenant, v_item, v_call, v_grants, v_now);
            if v_call.held <> '{}' then
                v_accounts := spanledger.lock_accounts(coalesce(v_wanted, '{}'), p_calls);
            end if;
            continue when p_answers[v_i] is not null;
        end if;
        v_found := spanledger.reserve(p_tenant, v_item, v_call, v_wanted -> v_i::text, v_accounts, v_now);
        if v_found ? 'refusal' and v_accounts <> '{}' then
            -- Some of what is held may be held by the dead, and of a model's nobody has to find out.
            perform spanledger.hold(v_accounts);
            if spanledger.sweep(p_tenant, v_accounts, v_now) > 0 then
                v_accounts := spanledger.lock_accounts(v_wanted, p_calls);
                v_found := spanledger.reserve(p_tenant, v_item, v_call, v_wanted -> v_i::text, v_accounts, v_now);
            end if;
        end if;
        v_accounts := coalesce(v_found -> 'accounts', v_accounts);
        if v_call.tenant is null and not v_found ? 'refusal' then
            v_fresh := v_fresh || v_i;
            v_founds := v_founds || jsonb_build_object(v_i, v_found - 'accounts');
            p_answers[v_i] := jsonb_build_object(
                'verdict', 'run', 'attempt', 1, 'attempts', 1, 'budgets', v_found -> 'budgets');
            perform spanledger.record_soft_limits(p_tenant, v_item, 1, v_found -> 'budgets', v_now);
        else
            p_answers[v_i] := spanledger.record_verdict(p_tenant, v_item, v_call, v_found, v_now);
        end if;
        if v_grants is not null and p_answers[v_i] ->> 'verdict' = 'run' then
            p_answers[v_i] := p_answers[v_i] || jsonb_build_object('grants', v_grants);
            v_granted := v_granted || jsonb_build_object(v_item ->> 'key', v_grants);
        end if;
    end loop;
    if v_fresh <> '{}' then
        perform spanledger.insert_calls(p_tenant, p_items, v_fresh, v_founds);
    end if;
    if v_granted <> '{}' then
        update spanledger.call c set grants = g.value from jsonb_each(v_granted) g
            where c.tenant = p_tenant and c.key = decode(g.key, 'hex');
    end if;
    if p_items @? '$[*].delegation' then
        update spanledger.call c set delegation = (i.item #>> '{delegation,id}')::uuid
            from (select p_items -> (o.i - 1) as item from unnest(v_open) o (i)) i
            where c.tenant = p_tenant and c.key = decode(i.item ->> 'key', 'hex')
                and c.attempt_id = (i.item ->> 'attempt_id')::uuid and i.item ? 'delegation';
    end if;
    if v_accounts <> '{}' then
        perform spanledger.hold(v_accounts);
    end if;
    return p_answers;
end
$$;
