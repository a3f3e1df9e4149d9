-- Was the payload of the attempt that this item is about forgotten? An attempt that no longer owns its call is found in
-- history; one that is not there began before whatever was erased, as far as anybody knows.
create or replace function spanledger.is_erased(p_tenant text, p_item jsonb, p_call spanledger.call)
returns boolean
language plpgsql stable
as $$
declare
    v_attempt integer := p_call.attempt;
begin
    if p_call.attempt_id is distinct from (p_item ->> 'attempt_id')::uuid then
        select h.attempt into v_attempt from spanledger.history h
            where h.tenant = p_tenant and h.key = p_call.key and h.event = 'superseded'
                and h.attempt_id = (p_item ->> 'attempt_id')::uuid
            order by h.id desc limit 1;
    end if;
    return exists (
        select from spanledger.history h
        where h.tenant = p_tenant and h.key = p_call.key and h.event = 'erased' and h.attempt >= coalesce(v_attempt, 0));
end
$$;
