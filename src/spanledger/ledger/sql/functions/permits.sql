-- Whether a grant's permission has another one: the same, every one, or, as `payments:*`, every one that begins so.
create or replace function spanledger.permits(p_granted text, p_permission text)
returns boolean
language plpgsql immutable
as $$
begin
    return p_granted in ('*', p_permission)
        or (right(p_granted, 2) = ':*' and starts_with(p_permission, left(p_granted, -1)));
end
$$;
