-- Calls of unknown outcome are few, and counted once a minute by every program that exports metrics.
create index call_unknown on spanledger.call (tenant) where state = 'unknown';
