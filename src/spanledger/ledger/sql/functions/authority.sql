-- What may be done by whoever asks: what `granted` says to them, or, under a delegation, to the agent at the beginning of
-- its chain. Then every link of the chain has to have the permission, which is a limit to what it may cost as well, and
-- nothing may be denied to whoever asks: nobody gets around that by somebody else's authority.
create or replace function spanledger.authority(p_tenant text, p_permission text, p_item jsonb, p_now timestamptz)
returns jsonb
language plpgsql stable
as $$
declare
    v_own jsonb := spanledger.granted(p_tenant, p_permission, p_item, p_now);
    v_said jsonb;
    v_link spanledger.delegation;
    v_first spanledger.delegation;
    v_reason text;
begin
    if not p_item ? 'delegation' then
        return v_own;
    end if;
    v_said := jsonb_build_object('permission', p_permission, 'delegation', p_item #> '{delegation,id}');
    for v_link in select * from spanledger.chain_of(p_tenant, p_item) loop
        if v_first.id is null then
            v_first := v_link;
        end if;
        v_reason := coalesce(v_reason, case
            when not exists (select from unnest(v_link.permissions) p where spanledger.permits(p, p_permission)) then
                format('%s has only %s', spanledger.delegation_name(v_link), array_to_string(v_link.permissions, ', '))
            when v_link.unit not in ('calls', 'tokens')
                and spanledger.amount_in(p_tenant, p_item -> 'reserve', v_link.unit, p_now) is null then
                format('what was delegated is limited, and nobody can tell what it costs in %s', v_link.unit) end);
    end loop;
    if v_reason is null and v_own ? 'grant' and v_own ? 'reason' and not v_own ?| '{limit,hours}' then
        return v_own || v_said;
    elsif v_reason is not null then
        return v_said || jsonb_build_object('reason', v_reason);
    end if;
    v_own := spanledger.granted(p_tenant, p_permission, p_item || jsonb_build_object('agent', v_first.by_agent), p_now);
    if v_own ? 'reason' then
        v_own := v_own || jsonb_build_object('reason', format('who delegated it, %s, may not: %s',
            coalesce('agent ' || nullif(v_first.by_agent, ''), 'an agent without a name'), v_own ->> 'reason'));
    end if;
    return v_own || v_said;
end
$$;
