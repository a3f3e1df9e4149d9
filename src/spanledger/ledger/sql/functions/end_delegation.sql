-- End a delegation, and with it everything that came of it: nothing new begins under them. What runs ends as it would.
-- Returns the ids of those that were in force until now, the given one first.
create or replace function spanledger.end_delegation(p_tenant text, p_id uuid, p_by text, p_reason text)
returns jsonb
language plpgsql volatile
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_ended jsonb;
begin
    select coalesce(jsonb_agg(d.id order by cardinality(d.chain), d.created_at, d.id), '[]') into v_ended
        from spanledger.delegation d
        where d.tenant = p_tenant and p_id = any (d.chain) and d.expires_at > v_now and not exists (
            select from spanledger.delegation a
            where a.tenant = p_tenant and a.id = any (d.chain) and a.revoked_at is not null);
    -- What is below is not touched: whoever begins looks at the whole chain, and so does one that is made just now.
    update spanledger.delegation d set revoked_at = v_now, revoked_by = p_by, revoked_reason = p_reason
        where d.tenant = p_tenant and d.id = p_id and d.revoked_at is null;
    if found then
        insert into spanledger.history (tenant, key, at, event, attempt, attempt_id, by_name, detail)
            values (p_tenant, decode(replace(p_id::text, '-', ''), 'hex'), v_now, 'delegation_revoked', 0, p_id, p_by,
                jsonb_strip_nulls(jsonb_build_object('reason', p_reason, 'ended', v_ended)));
    end if;
    return v_ended;
end
$$;
