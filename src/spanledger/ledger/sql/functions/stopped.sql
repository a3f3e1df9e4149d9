-- Whether an operator has stopped calls like this one: the refusal, or null. The program's own file can stop, too.
create or replace function spanledger.stopped(p_tenant text, p_item jsonb)
returns jsonb
language plpgsql stable
as $$
begin
    if p_item ? 'stopped' then
        return jsonb_build_object('switch', p_item -> 'stopped' -> 'match', 'reason', p_item -> 'stopped' -> 'reason');
    end if;
    return (select jsonb_build_object('switch', c.match, 'reason', c.spec ->> 'reason', 'by', c.applied_by,
            'version', c.version)
        from spanledger.control c
        where c.tenant = p_tenant and c.kind = 'switch' and c.active
            and p_item ->> 'tool' like c.match_like and not p_item ->> 'tool' like any (c.except_like)
        order by c.match limit 1);
end
$$;
