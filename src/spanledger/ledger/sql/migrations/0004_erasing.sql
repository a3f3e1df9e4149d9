-- When what is kept of the present attempt was forgotten: what it still brings is not kept either.
alter table spanledger.call add erased_at timestamptz;

create index approval_key on spanledger.approval (tenant, key);
