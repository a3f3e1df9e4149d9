-- Of attempts that `ran` while the ledger did not answer it is remembered that they were told, once: whoever lost the answer
-- tells them again, with their begin, and nothing else may be left by which they are known.
create or replace function spanledger.record_unguarded(p_tenant text, p_items jsonb, p_now timestamptz)
returns void
language plpgsql volatile
as $$
begin
    insert into spanledger.history (tenant, key, at, event, attempt, attempt_id)
        select p_tenant, c.key, p_now, 'unguarded',
            case when c.attempt_id = (e.item ->> 'attempt_id')::uuid then c.attempt else 0 end,
            (e.item ->> 'attempt_id')::uuid
        from jsonb_array_elements(p_items) e (item)
        join spanledger.call c on c.tenant = p_tenant and c.key = decode(e.item ->> 'key', 'hex')
        where e.item ? 'ran' and not exists (
            select from spanledger.history h where h.tenant = p_tenant and h.key = c.key
                and h.attempt_id = (e.item ->> 'attempt_id')::uuid and h.event = 'unguarded');
end
$$;
