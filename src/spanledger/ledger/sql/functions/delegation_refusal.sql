-- Why an item may not act under its delegation, whatever it wants to do: {delegation, reason}. Null: it may, or acts
-- under none. What is above it counts as it does itself: whoever has lost an authority has passed none on.
create or replace function spanledger.delegation_refusal(p_tenant text, p_item jsonb, p_now timestamptz)
returns jsonb
language plpgsql stable
as $$
declare
    v_id uuid;
    v_last spanledger.delegation;
    v_link spanledger.delegation;
    v_reason text;
begin
    if not p_item ? 'delegation' then
        return null;
    end if;
    v_id := (p_item #>> '{delegation,id}')::uuid;
    for v_link in select * from spanledger.chain_of(p_tenant, p_item) loop
        v_last := v_link;
        v_reason := coalesce(v_reason, case
            when v_link.revoked_at is not null then format('%s was revoked by %s%s', spanledger.delegation_name(v_link),
                v_link.revoked_by, coalesce(': ' || v_link.revoked_reason, ''))
            when v_link.expires_at <= p_now then format('%s has expired', spanledger.delegation_name(v_link)) end);
    end loop;
    v_reason := coalesce(v_reason, case
        when v_last.id is null then 'the ledger knows of no such delegation'
        when p_item ->> 'agent' is distinct from v_last.to_agent then format('%s is not for %s',
            spanledger.delegation_name(v_last), coalesce('agent ' || (p_item ->> 'agent'), 'an agent without a name'))
        when v_last.actor <> coalesce(p_item ->> 'actor', '') then format('%s is for %s, and not for %s',
            spanledger.delegation_name(v_last), v_last.actor, coalesce(p_item ->> 'actor', 'nobody')) end);
    return case when v_reason is not null then jsonb_build_object('delegation', v_id, 'reason', v_reason) end;
end
$$;
