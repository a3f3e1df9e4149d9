-- By whose consent an attempt runs, and where in the trace it was asked for; nothing where by nobody's.
create or replace function spanledger.consent_of(p_tenant text, p_approval uuid, p_attempt uuid)
returns jsonb
language plpgsql stable
as $$
begin
    return coalesce((select jsonb_build_object('approval_id', a.id, 'approved_by', a.by_name,
            'requested_in', jsonb_build_object('trace_id', a.trace_id, 'span_id', a.span_id))
        from spanledger.approval a
        where a.tenant = p_tenant and a.id = p_approval and a.consumed_by = p_attempt), '{}');
end
$$;
