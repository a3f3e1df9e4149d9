-- What models used, apart by kind; versions of agents and where they run; evaluations that were run elsewhere.

-- Tokens as the provider reported them: {input_tokens, output_tokens, cached_tokens, cache_written_tokens, reasoning_tokens}.
alter table spanledger.call add usage jsonb;

alter table spanledger.run add agent_version text;
alter table spanledger.run add environment text;

alter table spanledger.eval_run add agent_version text;
alter table spanledger.eval_run add environment text;
-- Its results are handed in by whoever has them, and no process of its own runs it.
alter table spanledger.eval_run add elsewhere boolean not null default false;
-- Null: nobody has said how many cases the suite has.
alter table spanledger.eval_run alter cases drop not null;

alter table spanledger.eval_result add weight double precision not null default 1 check (weight > 0 and weight < 'infinity');
alter table spanledger.eval_result add tags text[] not null default '{}';
alter table spanledger.eval_result add tokens bigint check (tokens >= 0);
alter table spanledger.eval_result add metadata jsonb;
