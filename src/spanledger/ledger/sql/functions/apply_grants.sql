-- Grants among the controls that `apply` writes; an item is {permission, agent, actor, expires_at, revoked, spec}. With
-- p_only_new, what stands there already is left alone: a program that starts gives back nothing that was taken away.
create or replace function spanledger.apply_grants(p_tenant text, p_grants jsonb, p_by text, p_only_new boolean)
returns void
language plpgsql volatile
as $$
declare
    v_now timestamptz := clock_timestamp();
begin
    -- What cannot be read is not kept, or every call that needs it would fail.
    perform spanledger.in_hours(item #>> '{spec,hours}', v_now) from jsonb_array_elements(p_grants) item;
    with written as (
        insert into spanledger.grants as g
            (tenant, permission, agent, actor, spec, expires_at, revoked_at, applied_at, applied_by)
            select p_tenant, item ->> 'permission', coalesce(item ->> 'agent', ''), coalesce(item ->> 'actor', ''),
                coalesce(item -> 'spec', '{"allowed": false}'), (item ->> 'expires_at')::timestamptz,
                case when (item ->> 'revoked')::boolean then v_now end, v_now, p_by
            from jsonb_array_elements(p_grants) item
            order by 2, 3, 4
        on conflict (tenant, permission, agent, actor) do update set
            spec = case when excluded.revoked_at is null then excluded.spec else g.spec end,
            expires_at = case when excluded.revoked_at is null then excluded.expires_at else g.expires_at end,
            revoked_at = excluded.revoked_at, version = g.version + 1,
            applied_at = excluded.applied_at, applied_by = excluded.applied_by
            where not p_only_new and (g.revoked_at is null or excluded.revoked_at is null)
                and (excluded.revoked_at is not null or g.revoked_at is not null
                    or (g.spec, g.expires_at) is distinct from (excluded.spec, excluded.expires_at))
        returning g.permission, g.agent, g.actor
    )
    insert into spanledger.history (tenant, key, at, event, attempt, by_name, detail)
        select p_tenant, ''::bytea, v_now, 'grant_changed', 0, p_by,
            -- As it was before this statement.
            jsonb_build_object('before', to_jsonb(g), 'after', item)
        from written w
        join jsonb_array_elements(p_grants) item on item ->> 'permission' = w.permission
            and coalesce(item ->> 'agent', '') = w.agent and coalesce(item ->> 'actor', '') = w.actor
        left join spanledger.grants g on g.tenant = p_tenant
            and (g.permission, g.agent, g.actor) = (w.permission, w.agent, w.actor);
end
$$;
