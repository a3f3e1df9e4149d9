"""Behind PgBouncer in transaction mode, where a connection is another server's at every statement."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from spanledger import AsyncLedger, Budget, Calls, Config, Ledger, ToolCall
from spanledger.errors import BudgetExceeded
from spanledger.ledger._database import is_pooled

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="needs pgbouncer")

SERVER_CONNECTIONS = 3
NOBODY = 65534
SETTINGS = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 1000
"""


@pytest.fixture(scope="module")
def pooler(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Turn a DSN into one that goes through a pooler in transaction mode."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = free.getsockname()[1]
    given = psycopg.conninfo.conninfo_to_dict(server)
    path = tmp_path_factory.mktemp("pooler") / "pgbouncer.ini"
    values = {name: given[name] for name in ("host", "port", "user")}
    path.write_text(SETTINGS.format(**values, listen=listen, size=SERVER_CONNECTIONS))
    # It does not run as root, and others cannot reach the server's socket.
    disguise = ["unshare", "--user", f"--map-user={NOBODY}"] if os.geteuid() == 0 else []
    with (path.parent / "log").open("w") as log:
        process = subprocess.Popen([*disguise, str(PGBOUNCER), "-q", str(path)], stderr=log, stdout=log)
    try:
        deadline_s = time.monotonic() + 10
        while not _listens(listen):
            assert process.poll() is None, (path.parent / "log").read_text()
            assert time.monotonic() < deadline_s, (path.parent / "log").read_text()
            time.sleep(0.02)
        yield lambda dsn: psycopg.conninfo.make_conninfo(dsn, host="127.0.0.1", port=listen, hostaddr="")
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


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
