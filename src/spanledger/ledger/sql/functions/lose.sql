-- Calls to models whose worker is gone have failed: there is no effect to find out about, and what they held is
-- released.
create or replace function spanledger.lose(p_tenant text, p_calls spanledger.call[], p_now timestamptz)
returns void
language plpgsql volatile
as $$
declare
    v_bookings jsonb;
begin
    if p_calls = '{}' then
        return;
    end if;
    select jsonb_agg(jsonb_build_object('key', encode(c.key, 'hex'), 'accounts', c.accounts, 'amounts', c.held, 'units', c.units,
            'spend', false, 'release', true, 'at', c.started_at))
        into v_bookings from unnest(p_calls) c where c.held <> '{}';
    if v_bookings is not null then
        perform spanledger.book_many(p_tenant, v_bookings);
    end if;
    update spanledger.call c set
        state = 'failed', held = '{}', lease_until = null, ended_at = p_now,
        error = '{"type": "lost", "message": "its worker gave no more signs of life"}'
        where c.tenant = p_tenant and c.key in (select lost.key from unnest(p_calls) lost);
end
$$;
