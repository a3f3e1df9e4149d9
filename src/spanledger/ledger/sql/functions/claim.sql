-- Reserve from every matching budget and claim the call, or refuse it: one write either way.
-- Amounts that the call still holds from an attempt of unknown outcome are given back to it first.
create or replace function spanledger.claim(
    p_tenant text, p_item jsonb, p_call spanledger.call, p_accounts jsonb, p_now timestamptz)
returns jsonb
language plpgsql volatile
as $$
declare
    v_key bytea := decode(p_item ->> 'key', 'hex');
    v_reserve jsonb := p_item -> 'reserve';
    v_currency text := (select k from jsonb_object_keys(v_reserve) k where k not in ('calls', 'tokens') limit 1);
    v_accounts jsonb := '[]';
    v_ids bigint[] := '{}';
    v_held bigint[] := '{}';
    v_touched bigint[] := '{}';
    v_change bigint[] := '{}';
    v_budgets jsonb := '[]';
    v_refusal jsonb;
    v_account jsonb;
    v_old bigint;
    v_amount bigint;
    v_left bigint;
    v_attempt integer := coalesce(p_call.attempt, 0) + 1;
    v_state text := 'in_flight';
begin
    for v_account in select value from jsonb_array_elements(p_accounts) loop
        v_old := coalesce(p_call.held[array_position(p_call.accounts, (v_account ->> 'id')::bigint)], 0);
        v_left := (v_account ->> 'limit')::bigint - (v_account ->> 'spent')::bigint
            - (v_account ->> 'held')::bigint + v_old;
        v_amount := 0;
        if p_item ->> 'tool' like v_account ->> 'match_like'
            and (v_account -> 'operations' = 'null' or v_account -> 'operations' ? (p_item ->> 'operation')) then
            v_amount := coalesce((v_reserve ->> (v_account ->> 'unit'))::bigint, 0);
            if v_account ->> 'unit' not in ('calls', 'tokens') and v_currency <> v_account ->> 'unit' then
                v_refusal := coalesce(v_refusal, spanledger.refusal(v_account, v_old, v_reserve,
                    format('it reserves %s, budget %s is kept in %s and the ledger has no rate between them',
                        v_currency, quote_ident(v_account ->> 'name'), v_account ->> 'unit')));
            elsif v_amount > v_left or (v_left <= 0 and not v_reserve ? (v_account ->> 'unit')) then
                v_refusal := coalesce(v_refusal, spanledger.refusal(v_account, v_old, v_reserve, null));
            end if;
            v_ids := v_ids || (v_account ->> 'id')::bigint;
            v_held := v_held || v_amount;
            v_budgets := v_budgets || jsonb_build_object('name', v_account ->> 'name', 'unit', v_account ->> 'unit',
                'reserved', v_amount, 'remaining', v_left - v_amount);
        end if;
        if v_amount <> v_old then
            v_touched := v_touched || (v_account ->> 'id')::bigint;
            v_change := v_change || (v_amount - v_old);
            v_account := v_account || jsonb_build_object('held', (v_account ->> 'held')::bigint + v_amount - v_old);
        end if;
        v_accounts := v_accounts || jsonb_build_array(v_account);
    end loop;

    if v_refusal is not null then
        if p_call.tenant is not null and (p_call.state <> 'refused' or p_call.held <> '{}') then
            -- The call has a past that must not be overwritten: the refusal goes beside it.
            insert into spanledger.history (tenant, key, at, event, attempt, attempt_id, detail)
                values (p_tenant, v_key, p_now, 'refused', p_call.attempt, (p_item ->> 'attempt_id')::uuid, v_refusal);
        else
            perform spanledger.write_call(p_tenant, p_item, p_call, p_now, 'refused', v_refusal, '{}', '{}');
        end if;
        return v_refusal || jsonb_build_object('verdict', 'budget_exceeded',
            'attempt', coalesce(p_call.attempt, 0), 'attempts', coalesce(p_call.attempts, 0));
    end if;
    if v_touched <> '{}' then
        update spanledger.account a set held = a.held + t.change
            from unnest(v_touched, v_change) t (id, change) where a.id = t.id;
    end if;
    perform spanledger.write_call(p_tenant, p_item, p_call, p_now, 'in_flight', null, v_ids, v_held);
    return jsonb_build_object('verdict', 'run', 'attempt', v_attempt, 'attempts', 1 + case p_call.state when 'succeeded' then 0 else coalesce(p_call.attempts, 0) end,
        'budgets', v_budgets, 'accounts', v_accounts);
end
$$;
