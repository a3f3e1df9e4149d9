-- What the grants say about one permission: {permission, grant, version}, with `approval` where a person has to say yes,
-- and with `reason` where it is refused. The narrowest grant decides: by permission first, then by how many of agent and
-- actor it names. Of two that are as narrow, the one that refuses; what either of them redacts is in `redact`. Outside of
-- its hours a grant refuses, with `hours`, and a denial is passed over.
create or replace function spanledger.granted(p_tenant text, p_permission text, p_item jsonb, p_now timestamptz)
returns jsonb
language plpgsql stable
as $$
declare
    v_rank integer[];
    v_grant record;
    v_said jsonb;
    v_found jsonb;
    v_amount bigint;
begin
    for v_grant in
        select g.permission, g.agent, g.actor, g.spec, g.version, array[(g.permission = p_permission)::integer,
            length(g.permission), (g.agent <> '')::integer + (g.actor <> '')::integer] as rank
        from spanledger.grants g
        where g.tenant = p_tenant and spanledger.permits(g.permission, p_permission)
            and g.agent in ('', p_item ->> 'agent') and g.actor in ('', p_item ->> 'actor')
            and g.revoked_at is null and (g.expires_at is null or g.expires_at > p_now)
            and ((g.spec ->> 'allowed')::boolean or spanledger.in_hours(g.spec ->> 'hours', p_now))
        order by rank desc, g.agent desc
    loop
        exit when v_grant.rank <> v_rank;
        v_rank := v_grant.rank;
        v_said := jsonb_build_object('permission', p_permission, 'version', v_grant.version,
            'grant', spanledger.grant_name(v_grant.permission, v_grant.agent, v_grant.actor));
        if not (v_grant.spec ->> 'allowed')::boolean then
            return v_said || jsonb_build_object('reason', coalesce(v_grant.spec ->> 'reason', 'it is denied'));
        end if;
        if not spanledger.in_hours(v_grant.spec ->> 'hours', p_now) then
            return v_said || jsonb_build_object('hours', v_grant.spec -> 'hours', 'reason',
                format('it holds only at %s UTC', v_grant.spec ->> 'hours'));
        end if;
        if v_grant.spec -> 'limit' <> 'null' then
            v_amount := spanledger.amount_in(p_tenant, p_item -> 'reserve', v_grant.spec #>> '{limit,unit}', p_now);
            if coalesce(v_amount > (v_grant.spec #>> '{limit,steps}')::bigint, true) then
                return v_said || jsonb_build_object('limit', v_grant.spec -> 'limit', 'requested', v_amount, 'reason',
                    case when v_amount is not null then 'it costs more than was granted' else
                        'what was granted is limited, and nobody can tell what it costs in that unit' end);
            end if;
        end if;
        if spanledger.needs_approval(p_tenant, v_grant.spec -> 'approval', p_item, p_now) then
            v_said := v_said || '{"approval": true}';
            v_found := v_said || case when v_found ? 'redact'
                then jsonb_build_object('redact', v_found -> 'redact') else '{}' end;
        end if;
        v_found := coalesce(v_found, v_said);
        if v_grant.spec ? 'redact' then
            v_found := v_found
                || jsonb_build_object('redact', coalesce(v_found -> 'redact', '[]') || (v_grant.spec -> 'redact'));
        end if;
    end loop;
    return coalesce(v_found, jsonb_build_object('permission', p_permission, 'reason', coalesce((
        select format('the grant of %s %s', spanledger.grant_name(g.permission, g.agent, g.actor),
            case when g.revoked_at is null then 'has expired' else 'was revoked' end)
        from spanledger.grants g
        where g.tenant = p_tenant and spanledger.permits(g.permission, p_permission)
            and g.agent in ('', p_item ->> 'agent') and g.actor in ('', p_item ->> 'actor')
            and (g.revoked_at is not null or g.expires_at <= p_now)
        order by greatest(g.revoked_at, g.expires_at) desc nulls last limit 1), 'nobody has granted it')));
end
$$;
