-- What a call that has succeeded, and may be replayed, says to a new begin; null for every other, which takes a closer
-- look. In SQL, so that it becomes part of the statement that asks.
create or replace function spanledger.replay(p_call spanledger.call, p_item jsonb, p_now timestamptz)
returns jsonb
language sql stable
as $$
    select case when p_call.state = 'succeeded' and not p_item ? 'delegation'
            and (p_call.fingerprint = decode(p_item ->> 'fingerprint', 'hex') or p_item ->> 'on_mismatch' = 'replay')
            and (p_item ->> 'replay_for_s' is null
                or p_call.ended_at + make_interval(secs => (p_item ->> 'replay_for_s')::double precision) > p_now)
        then jsonb_build_object('verdict', 'replay', 'result', p_call.result, 'result_kept', p_call.result_kept,
            'pruned_at', case when p_call.pruned_at >= p_call.ended_at then p_call.pruned_at end,
            'now_s', extract(epoch from p_now)) || spanledger.answer(p_call, p_item) end
$$;
