-- Give every bound role what its kinds may use, and nobody else anything. Run by the owner after each migration,
-- because a function that was made anew may be used by everybody.
create or replace function spanledger.grant_rights()
returns void
language plpgsql volatile
as $$
declare
    v_grant record;
begin
    revoke all on all functions in schema spanledger, spanledger_v1 from public;
    -- Views run as their owner but for functions, which run as whoever reads.
    grant execute on function spanledger.sees_all(), spanledger.sees_trail(text),
        spanledger.costs(jsonb, text[], bigint[]), spanledger.texts(jsonb), spanledger.numbers(jsonb),
        spanledger.tokens_of(jsonb, text),
        spanledger.live_since(text, double precision, text, timestamptz),
        spanledger.window_start(text, double precision, text, timestamptz) to public;
    for v_grant in
        select distinct m.role, p.oid::regprocedure as function
        from spanledger.member m
        join pg_proc p on p.pronamespace = 'spanledger_v1'::regnamespace and p.proname = any (spanledger.rights(m.kind))
        where m.role in (select rolname from pg_roles)
    loop
        execute format('grant usage on schema spanledger_v1 to %I', v_grant.role);
        execute format('grant select on all tables in schema spanledger_v1 to %I', v_grant.role);
        execute format('grant execute on function %s to %I', v_grant.function, v_grant.role);
    end loop;
end
$$;
