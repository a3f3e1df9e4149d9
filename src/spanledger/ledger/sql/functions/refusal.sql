-- The figures of a budget that has too little left for a call.
create or replace function spanledger.refusal(p_account jsonb, p_old bigint, p_reserve jsonb, p_reason text)
returns jsonb
language sql immutable
as $$
    select jsonb_build_object(
        'reason', p_reason,
        'budget', p_account ->> 'name',
        'unit', p_account ->> 'unit',
        'limit', (p_account ->> 'limit')::bigint,
        'spent', (p_account ->> 'spent')::bigint,
        'held', (p_account ->> 'held')::bigint - p_old,
        'remaining', (p_account ->> 'limit')::bigint - (p_account ->> 'spent')::bigint
            - (p_account ->> 'held')::bigint + p_old,
        'requested', coalesce((p_reserve ->> (p_account ->> 'unit'))::bigint, 0))
$$;
