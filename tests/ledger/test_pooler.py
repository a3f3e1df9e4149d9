"""Behind PgBouncer in transaction mode, where a connection is another server's at every statement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from pooler import PGBOUNCER, SERVER_CONNECTIONS

from spanledger import AsyncLedger, Budget, Calls, Config, Ledger, ToolCall
from spanledger.errors import BudgetExceeded
from spanledger.ledger._database import is_pooled

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="needs pgbouncer")


def refund(number: int) -> ToolCall:
    return ToolCall("refund", {"n": number}, workflow_id="w")


def test_a_pooler_is_told_from_a_server(dsn: str, pooler: Callable[[str], str]) -> None:
    with psycopg.connect(dsn) as direct, psycopg.connect(pooler(dsn)) as pooled:
        assert (is_pooled(direct), is_pooled(pooled)) == (False, True)


def test_many_calls_of_many_threads_share_few_connections(dsn: str, pooler: Callable[[str], str]) -> None:
    config = Config(dsn=pooler(dsn), budgets=(Budget("refunds", Calls(100)),))
    with Ledger(config=config) as ledger, ThreadPoolExecutor(16) as pool:
        for _ in range(2):
            values = list(pool.map(lambda n: ledger.run(refund(n % 100), lambda: n % 100), range(200)))
            assert values == [n % 100 for n in range(200)]
        assert ledger.budget("refunds").spent == Calls(100)
        with pytest.raises(BudgetExceeded):
            ledger.run(refund(100), lambda: pytest.fail("ran"))
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() "
            "and backend_type = 'client backend'"
        ).fetchone()
    assert row is not None
    assert 0 < row[0] <= SERVER_CONNECTIONS


def test_many_calls_of_many_tasks_share_few_connections(dsn: str, pooler: Callable[[str], str]) -> None:
    async def main() -> list[object]:
        async with AsyncLedger(config=Config(dsn=pooler(dsn))) as ledger:
            return await asyncio.gather(*(ledger.run(refund(n % 50), lambda n=n: n % 50) for n in range(150)))

    assert asyncio.run(main()) == [n % 50 for n in range(150)]


def test_a_hundred_programs_wait_for_their_turn(dsn: str, pooler: Callable[[str], str]) -> None:
    def program(number: int) -> object:
        with Ledger(config=Config(dsn=pooler(dsn))) as ledger:
            return ledger.run(refund(number), lambda: number)

    with ThreadPoolExecutor(100) as pool:
        assert list(pool.map(program, range(100))) == list(range(100))


def test_a_ledger_is_prepared_through_a_pooler(empty_dsn: str, pooler: Callable[[str], str], tmp_path: Path) -> None:
    with Ledger(config=Config(dsn=pooler(empty_dsn))) as ledger:
        assert "0001_calls_and_budgets" in ledger.migrate()
        assert ledger.run(refund(1), lambda: "paid") == "paid"
