-- What a begin is told whose attempt was given back, or superseded, before it came; null where it is none of these. Of one
-- that was only asked about, or refused, the same attempt may be asked for again.
create or replace function spanledger.is_over(p_tenant text, p_item jsonb, p_call spanledger.call)
returns jsonb
language plpgsql stable
as $$
begin
    if exists (
        select from spanledger.history h
        where h.tenant = p_tenant and h.key = decode(p_item ->> 'key', 'hex')
            and h.attempt_id = (p_item ->> 'attempt_id')::uuid and (h.event = 'not_invoked' or (h.event = 'superseded'
                and h.detail ->> 'state' in ('succeeded', 'failed', 'released', 'unknown', 'cancelled')))) then
        return spanledger.answer(p_call, p_item) || '{"verdict": "failed", "error":
            {"type": "not_invoked", "message": "its begin came when this attempt was over"}}';
    end if;
    return null;
end
$$;
