-- What one item takes from each account it wants: {accounts, ids, amounts, budgets}, or {refusal} of the first budget,
-- by name, that has too little left. What the call still holds is given back to it, but for what its attempt of unknown
-- outcome has told that it cost, which is spent when the next one runs. Ids, amounts and units are arrays as Postgres
-- writes them. Nothing is written here.
create or replace function spanledger.reserve(
    p_tenant text, p_item jsonb, p_call spanledger.call, p_wanted jsonb, p_accounts jsonb, p_now timestamptz)
returns jsonb
language plpgsql stable
as $$
declare
    v_accounts jsonb := p_accounts;
    v_ids bigint[] := '{}';
    v_amounts bigint[] := '{}';
    v_units text[] := '{}';
    v_budgets jsonb := '[]';
    v_wants jsonb;
    v_account jsonb;
    v_id text;
    v_i integer;
    v_amount bigint;
    v_limit bigint;
    v_used bigint;
    v_foreign text;
    v_told jsonb := jsonb_build_object('cost', p_call.cost, 'spend', false, 'at', p_call.started_at);
    v_spent bigint;
begin
    for v_i in 1 .. coalesce(array_length(p_call.held, 1), 0) loop
        v_spent := case when p_call.state = 'unknown'
            then least(spanledger.spent_of(p_tenant, v_told, p_call.units[v_i], 0), 1000000000000000000) else 0 end;
        v_id := p_call.accounts[v_i]::text;
        v_account := v_accounts -> v_id;
        v_accounts := jsonb_set(v_accounts, array[v_id], v_account || jsonb_build_object(
            'held', (v_account ->> 'held')::bigint - p_call.held[v_i],
            'spent', (v_account ->> 'spent')::bigint + v_spent,
            'own', (v_account ->> 'own')::bigint - p_call.held[v_i]));
        v_id := v_account ->> 'counts_in';
        if v_id is not null then
            v_account := v_accounts -> v_id;
            v_accounts := jsonb_set(v_accounts, array[v_id], v_account || jsonb_build_object(
                'held', (v_account ->> 'held')::bigint - p_call.held[v_i],
                'spent', (v_account ->> 'spent')::bigint + v_spent));
        end if;
    end loop;
    for v_i in 0 .. coalesce(jsonb_array_length(p_wanted), 0) - 1 loop
        v_wants := p_wanted -> v_i;
        v_id := v_wants ->> 'id';
        v_account := v_accounts -> v_id;
        v_limit := (v_wants ->> 'limit')::bigint + (v_account ->> 'topped_up')::bigint;
        v_used := (v_account ->> 'spent')::bigint + (v_account ->> 'held')::bigint;
        v_amount := spanledger.amount_in(p_tenant, p_item -> 'reserve', v_wants ->> 'unit', p_now);
        v_foreign := case when v_amount is null and v_wants ->> 'unit' not in ('calls', 'tokens')
            then spanledger.currency_of(p_item -> 'reserve') end;
        if v_wants ? 'covered' and v_foreign is null then
            v_amount := greatest(0, coalesce(v_amount, 0) - (v_wants ->> 'covered')::bigint);
            continue when v_amount = 0;
        end if;
        if v_foreign is not null or coalesce(v_amount, 0) > v_limit - v_used
            or (v_amount is null and v_used >= v_limit) then
            return jsonb_build_object('refusal', jsonb_strip_nulls(jsonb_build_object(
                'reason', case when v_foreign is not null then
                    format('it reserves %s, budget %s is kept in %s and the ledger has no rate between them',
                        v_foreign, quote_ident(v_wants ->> 'budget'), v_wants ->> 'unit') end,
                'budget', v_wants -> 'budget', 'unit', v_wants -> 'unit', 'scope', nullif(v_wants ->> 'scope', ''),
                'version', v_wants -> 'version', 'limit', v_limit, 'spent', v_account -> 'spent',
                'held', v_account -> 'held', 'remaining', v_limit - v_used, 'requested', coalesce(v_amount, 0))));
        end if;
        v_amount := coalesce(v_amount, 0);
        v_ids := v_ids || v_id::bigint;
        v_amounts := v_amounts || v_amount;
        v_units := v_units || (v_wants ->> 'unit');
        v_budgets := v_budgets || jsonb_strip_nulls(jsonb_build_object(
            'name', v_wants -> 'budget', 'unit', v_wants -> 'unit', 'scope', nullif(v_wants ->> 'scope', ''),
            'reserved', v_amount, 'remaining', v_limit - v_used - v_amount,
            -- Said by the one call that crosses it, upwards.
            'soft', case when v_used <= (v_wants ->> 'soft')::bigint
                and v_used + v_amount > (v_wants ->> 'soft')::bigint then v_wants -> 'soft' end));
        if v_amount > 0 then
            v_accounts := jsonb_set(v_accounts, array[v_id], v_account || jsonb_build_object(
                'held', (v_account ->> 'held')::bigint + v_amount, 'own', (v_account ->> 'own')::bigint + v_amount));
        end if;
    end loop;
    return jsonb_build_object('accounts', v_accounts, 'ids', v_ids::text, 'amounts', v_amounts::text,
        'units', v_units::text, 'budgets', v_budgets);
end
$$;
