-- How many tokens of a kind were reported; null where nothing was, or something that is no number: who tells of one call
-- must not make the sums of others unreadable.
create or replace function spanledger.tokens_of(p_usage jsonb, p_kind text)
returns bigint
language plpgsql immutable cost 10
as $$
begin
    return case when jsonb_typeof(p_usage -> p_kind) = 'number'
        then least(greatest((p_usage ->> p_kind)::numeric, 0), 1e12)::bigint end;
end
$$;
