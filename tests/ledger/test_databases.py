"""The databases of the tests: what one test leaves does not reach the next."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from tests.databases import Ledgers

from spanledger import Config, Ledger, ToolCall


@pytest.fixture
def own(server: str, template: str) -> Iterator[Ledgers]:
    """Databases that no other test is lent."""
    own = Ledgers(server, template)
    yield own
    own.drop()


def asked(dsn: str, statement: str) -> object:
    """The first column of the first row that a statement gives, if it gives any."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None


SAME = "select oid from pg_database where datname = current_database()"


def test_the_next_test_is_lent_the_same_one_empty_and_under_another_name(own):
    def history_of_a_call(dsn: str) -> list[int]:
        with Ledger(config=Config(dsn=dsn)) as ledger:
            ledger.run(ToolCall("refund", {}, workflow_id="w"), lambda: 1)
            assert len(ledger.calls()) == 1
        return asked(dsn, "select array_agg(id order by id) from spanledger.history")

    with own.one() as first:
        before = asked(first, SAME), history_of_a_call(first)
    with own.one() as second:
        assert (asked(second, SAME), history_of_a_call(second)) == before
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            asked(first, "select 1")


def test_who_is_still_connected_is_so_no_longer(own):
    with own.one() as dsn:
        left = psycopg.connect(dsn)
    with pytest.raises(psycopg.errors.AdminShutdown):
        left.execute("select 1")
    left.close()


@pytest.mark.parametrize(
    "change",
    [
        "create table public.more (n int)",
        "create schema more",
        "alter table spanledger.call add column more int",
        "alter table spanledger.call alter column tool drop not null",
        "alter table spanledger.call enable row level security",
        "create index on spanledger.call (tool)",
        "grant select on spanledger_v1.calls to public",
        "grant execute on all functions in schema spanledger to public",
        "create or replace view spanledger_v1.version as select * from (select * from spanledger_v1.version) as v",
        "drop function spanledger.in_hours",
        "delete from spanledger.module",
        "update spanledger.migration set name = name",
        "drop schema spanledger cascade",
        "do $$ begin execute format('alter database %I set work_mem = 64', current_database()); end $$",
    ],
)
def test_one_that_is_no_longer_as_it_was_made_is_lent_to_nobody(own, change):
    with own.one() as dsn:
        before = asked(dsn, SAME)
        asked(dsn, change)
    with own.one() as dsn:
        assert asked(dsn, SAME) != before
