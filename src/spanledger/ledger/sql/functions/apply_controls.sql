-- Approvals, permissions or switches among the controls that `apply` writes; an item is {match, except, …}. What asks for nothing is
-- written only over what did.
create or replace function spanledger.apply_controls(p_tenant text, p_kind text, p_controls jsonb, p_by text)
returns void
language plpgsql volatile
as $$
begin
    select coalesce(jsonb_agg(item), '[]') into p_controls from jsonb_array_elements(p_controls) item
        where spanledger.is_active(p_kind, item) or exists (select from spanledger.control c
            where c.tenant = p_tenant and c.kind = p_kind and c.match = item ->> 'match');
    with written as (
        insert into spanledger.control as c
            (tenant, kind, match, match_like, except_like, spec, active, applied_at, applied_by)
            select p_tenant, p_kind, item ->> 'match', spanledger.like_of(item ->> 'match'),
                coalesce((select array_agg(spanledger.like_of(e)) from jsonb_array_elements_text(item -> 'except') e), '{}'),
                item - '{match,except}'::text[], spanledger.is_active(p_kind, item), clock_timestamp(), p_by
            from jsonb_array_elements(p_controls) item
            order by item ->> 'match'
        on conflict (tenant, kind, match) do update set
            except_like = excluded.except_like, spec = excluded.spec, active = excluded.active, version = c.version + 1,
            applied_at = excluded.applied_at, applied_by = excluded.applied_by
            where (c.except_like, c.spec) is distinct from (excluded.except_like, excluded.spec)
        returning c.match
    )
    insert into spanledger.history (tenant, key, at, event, attempt, by_name, detail)
        select p_tenant, ''::bytea, clock_timestamp(), p_kind || '_changed', 0, p_by,
            -- As it was before this statement.
            jsonb_build_object('before', to_jsonb(c), 'after', item)
        from written
        join jsonb_array_elements(p_controls) item on item ->> 'match' = written.match
        left join spanledger.control c on c.tenant = p_tenant and c.kind = p_kind and c.match = written.match;
end
$$;
