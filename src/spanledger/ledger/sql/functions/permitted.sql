-- What the grants say about a call: null where it needs no permission, else what `authority` says of each that it needs,
-- or of the first that is refused alone. A call needs what its program's rule names and what operators' controls do, and
-- one that acts under a delegation needs that it is in force.
create or replace function spanledger.permitted(p_tenant text, p_item jsonb, p_now timestamptz)
returns jsonb
language plpgsql stable
as $$
declare
    v_grants jsonb := '[]';
    v_refusal jsonb := spanledger.delegation_refusal(p_tenant, p_item, p_now);
    v_needed text;
    v_said jsonb;
begin
    if v_refusal is not null then
        return jsonb_build_array(v_refusal);
    end if;
    for v_needed in
        select p_item ->> 'permission' where p_item ->> 'permission' is not null
        union
        select c.spec ->> 'permission' from spanledger.control c
        where c.tenant = p_tenant and c.kind = 'permission' and c.active
            and p_item ->> 'tool' like c.match_like and not p_item ->> 'tool' like any (c.except_like)
        order by 1
    loop
        v_said := spanledger.authority(p_tenant, v_needed, p_item, p_now);
        if v_said ? 'reason' then
            return jsonb_build_array(v_said);
        end if;
        v_grants := v_grants || v_said;
    end loop;
    return nullif(v_grants, '[]');
end
$$;
