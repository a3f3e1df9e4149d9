-- What is new is found by when it was touched. These indexes say of ranges of pages from when to when that was, so they
-- are small, and a write costs next to nothing; what is written last is read anyway.
create index call_touched on spanledger.call using brin ((greatest(started_at, ended_at, lease_until)))
    with (pages_per_range = 32, autosummarize = on);
create index history_touched on spanledger.history using brin (at) with (pages_per_range = 32, autosummarize = on);
