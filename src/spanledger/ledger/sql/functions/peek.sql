-- Whether calls that somebody waits for have changed: they do not run and are not pending any more, or their time is
-- over. And whether such a call is run by the attempt that is named, with the arguments that are named.
create or replace function spanledger_v1.peek(p_tenant text, p_items jsonb)
returns jsonb
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform spanledger.require(p_tenant, 'peek');
    return (
        select coalesce(jsonb_agg(jsonb_build_object('changed', u.until is null or u.until <= clock_timestamp(),
                'left_s', extract(epoch from u.until - clock_timestamp()),
                'runs', c.state = 'in_flight' and c.lease_until > clock_timestamp() and c.tool = item.item ->> 'tool'
                    and c.attempt_id::text = item.item ->> 'attempt_id'
                    and encode(c.fingerprint, 'hex') = item.item ->> 'fingerprint') order by item.i), '[]')
        from jsonb_array_elements(p_items) with ordinality item (item, i)
        left join spanledger.call c on c.tenant = p_tenant and c.key = decode(item.item ->> 'key', 'hex')
        cross join lateral (select case c.state when 'in_flight' then c.lease_until
            when 'pending' then c.approval_until when 'unknown' then c.probe_until end as until) u);
end
$$;
