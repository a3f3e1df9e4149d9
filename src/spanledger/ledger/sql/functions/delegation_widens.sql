-- Why a delegation that is asked for would be no narrower than what it comes from: another delegation, the last of its
-- chain, or else what is granted to whoever gives it. Null: it is.
create or replace function spanledger.delegation_widens(
    p_tenant text, p_item jsonb, p_above spanledger.delegation, p_now timestamptz)
returns text
language plpgsql stable
as $$
declare
    v_depth_max constant integer := 8;
    v_permission text;
    v_said jsonb;
begin
    if cardinality(p_above.chain) >= v_depth_max then
        return format('it would be passed on for more than %s times', v_depth_max);
    end if;
    if p_above.unit = p_item #>> '{max,unit}' and p_above.max_steps < (p_item #>> '{max,steps}')::bigint then
        return format('it may spend more than %s', spanledger.delegation_name(p_above));
    end if;
    for v_permission in select jsonb_array_elements_text(p_item -> 'permissions') loop
        if p_above.id is null then
            v_said := spanledger.granted(p_tenant, v_permission, p_item, p_now);
            -- What one call may cost is looked at when it is made.
            if v_said ? 'reason' and not v_said ? 'limit' then
                return format('%s: %s', v_permission, v_said ->> 'reason');
            end if;
        elsif not exists (select from unnest(p_above.permissions) p where spanledger.permits(p, v_permission)) then
            return format('%s: %s has only %s', v_permission, spanledger.delegation_name(p_above),
                array_to_string(p_above.permissions, ', '));
        end if;
    end loop;
    return null;
end
$$;
