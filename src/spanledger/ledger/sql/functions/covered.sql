-- The same accounts, and with each what is `covered` of the amount an item wants from it: what the call around the item,
-- which is this one by another name, holds of that budget for both. Nothing, where that call does not run, or where its
-- name does not end with this one's: what a client takes for the same call is not believed.
create or replace function spanledger.covered(p_tenant text, p_items jsonb, p_wanted jsonb)
returns jsonb
language plpgsql stable
as $$
begin
    return (
        select jsonb_object_agg(e.key, (
            select jsonb_agg(w.account || coalesce(h.held, '{}') order by w.n)
            from jsonb_array_elements(e.value) with ordinality w (account, n)
            left join lateral (
                select jsonb_build_object('covered', sum(o.held)) as held
                from spanledger.call c cross join unnest(c.accounts, c.held) o (account, held)
                join spanledger.account a on a.id = o.account
                where c.tenant = p_tenant and c.state = 'in_flight'
                    and c.key = decode(i.alias_of ->> 'key', 'hex')
                    and c.attempt_id = (i.alias_of ->> 'attempt_id')::uuid
                    and right(spanledger.spoken(c.tool), length(spanledger.spoken(i.tool)) + 1)
                        = '_' || nullif(spanledger.spoken(i.tool), '')
                    and a.budget = w.account ->> 'budget' and a.scope = w.account ->> 'scope'
                having count(*) > 0) h on true))
        from jsonb_each(p_wanted) e
        cross join lateral (select p_items -> (e.key::integer - 1) -> 'alias_of' as alias_of,
            p_items -> (e.key::integer - 1) ->> 'tool' as tool) i);
end
$$;
