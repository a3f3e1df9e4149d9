-- Whether something is permitted is asked of no call, and found by the workflow that it was asked in.
create index history_asked on spanledger.history ((detail ->> 'workflow_id'), tenant, at)
    where event in ('authorized', 'not_authorized', 'delegated', 'not_delegated');
