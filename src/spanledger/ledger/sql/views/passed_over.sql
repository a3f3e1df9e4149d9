-- What programs in mode shadow let pass although it would have been refused, replayed or asked about.
create or replace view spanledger_v1.passed_over with (security_barrier) as
select
    h.tenant, h.id, h.at, encode(h.key, 'hex') as key, h.detail ->> 'verdict' as verdict, h.detail ->> 'reason' as reason,
    h.detail ->> 'tool' as tool, h.detail ->> 'workflow_id' as workflow_id, h.detail ->> 'agent' as agent,
    h.detail ->> 'actor' as actor, h.detail ->> 'rule' as rule, h.detail -> 'reserve' as reserve,
    h.detail ->> 'trace_id' as trace_id, h.detail ->> 'span_id' as span_id
from spanledger.history h
where h.event = 'would_have' and ((select spanledger.sees_all())
    or h.tenant in (select m.tenant from spanledger.member m where m.role = session_user));
