-- Up to which migration the schema is, and up to which a program must know it.
create or replace view spanledger_v1.version as
select max(version) as version, max(version) filter (where breaking) as breaking from spanledger.migration;
