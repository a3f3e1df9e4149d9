-- Forget what calls were made with and what came of them: arguments, results, the words of errors, reasons and notes. That
-- they happened, when, for whom, what they cost and who decided stays, and so does the key: they do not run again. A call
-- that runs meanwhile is forgotten when it ends. `p_where` has key, workflow and actor, each of them optional; without any,
-- it is the whole tenant. A bounded number is done, in the order of keys, which is the order of locks, after the key
-- `p_after`. Returns the keys, and after which one to go on; null at the end.
create or replace function spanledger_v1.erase(
    p_tenant text, p_where jsonb, p_by text, p_after text default '', p_calls_max integer default 500)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    -- Of a conversation's id, narrowed to turn and actor, a scope is made that begins like this.
    v_narrowed text := '[' || to_jsonb(p_where ->> 'workflow')::text || ',';
    v_now timestamptz := clock_timestamp();
    v_keys bytea[];
begin
    perform spanledger.require(p_tenant, 'erase');
    v_keys := array(
        select c.key from spanledger.call c
        where c.tenant = p_tenant and c.key > decode(p_after, 'hex')
            and (not p_where ? 'key' or c.key = decode(p_where ->> 'key', 'hex'))
            and (not p_where ? 'actor' or c.actor = p_where ->> 'actor')
            and (not p_where ? 'workflow' or c.workflow_id = p_where ->> 'workflow'
                or starts_with(c.workflow_id, v_narrowed))
        order by c.key limit p_calls_max for update);
    insert into spanledger.history (tenant, key, at, event, attempt, attempt_id, by_name)
        select c.tenant, c.key, v_now, 'erased', c.attempt, c.attempt_id, p_by from spanledger.call c
        where c.tenant = p_tenant and c.key = any (v_keys) and c.erased_at is null;
    update spanledger.history h set detail = spanledger.without_payload(h.detail)
        where h.tenant = p_tenant and h.key = any (v_keys) and h.detail <> spanledger.without_payload(h.detail);
    update spanledger.approval a set arguments = null, note = null
        where a.tenant = p_tenant and a.key = any (v_keys);
    update spanledger.call c set
        arguments = null, result = null, result_kept = false, error = c.error - 'message', erased_at = v_now
        where c.tenant = p_tenant and c.key = any (v_keys);
    -- What agents said on the way, with the first of the calls.
    update spanledger.trail t
        set detail = t.detail - '{goal,text,name,options,chosen,because,confidence,reason}'::text[]
        where t.tenant = p_tenant and (t.key = any (v_keys) or (p_after = '' and not p_where ? 'key'
            and (not p_where ? 'actor' or t.actor = p_where ->> 'actor')
            and (not p_where ? 'workflow' or t.workflow_id = p_where ->> 'workflow'
                or starts_with(t.workflow_id, v_narrowed))));
    update spanledger.run r set goal = null, error = null
        where r.tenant = p_tenant and p_after = '' and not p_where ? 'key'
            and (not p_where ? 'actor' or r.actor = p_where ->> 'actor')
            and (not p_where ? 'workflow' or r.workflow_id = p_where ->> 'workflow');
    -- What was asked of no call.
    update spanledger.history h set detail = h.detail - '{context,reason}'::text[]
        where h.event in ('authorized', 'not_authorized', 'delegated', 'not_delegated')
            and h.tenant = p_tenant and p_after = '' and not p_where ? 'key' and h.detail ?| array['context', 'reason']
            and (not p_where ? 'actor' or h.detail ->> 'actor' = p_where ->> 'actor')
            and (not p_where ? 'workflow' or h.detail ->> 'workflow_id' = p_where ->> 'workflow'
                or starts_with(h.detail ->> 'workflow_id', v_narrowed));
    if p_where = '{}' then
        update spanledger.eval_result e set output = null, explanation = null, error = e.error - 'message', metadata = null
            where e.tenant = p_tenant;
    end if;
    return jsonb_build_object(
        'keys', (select coalesce(jsonb_agg(encode(k, 'hex') order by k), '[]') from unnest(v_keys) k),
        'after', case when cardinality(v_keys) = p_calls_max then encode(v_keys[p_calls_max], 'hex') end);
end
$$;
