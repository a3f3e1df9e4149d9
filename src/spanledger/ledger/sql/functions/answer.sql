-- What every answer says about a call that is there already. In SQL, so that it becomes part of the statement that
-- asks.
create or replace function spanledger.answer(p_call spanledger.call, p_item jsonb)
returns jsonb
language sql stable
as $$
    select jsonb_build_object('attempt', p_call.attempt, 'attempts', p_call.attempts,
        'arguments_differ', coalesce(p_call.fingerprint <> decode(p_item ->> 'fingerprint', 'hex'), false),
        'original', jsonb_build_object('trace_id', p_call.trace_id, 'span_id', p_call.span_id))
        || case when p_call.grants is null then '{}'
            else jsonb_build_object('redact', jsonb_path_query_array(p_call.grants, '$[*].redact[*]')) end
$$;
