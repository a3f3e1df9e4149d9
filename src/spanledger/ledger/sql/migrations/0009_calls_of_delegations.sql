-- What was done under a delegation is looked up by it; few calls have one.
create index call_delegation on spanledger.call (tenant, delegation) where delegation is not null;
