"""Calls that are in flight together go in one statement, and each is answered as if it had been alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from spanledger import AsyncLedger, Budget, Calls, Config, Ledger, ToolCall
from spanledger.errors import BudgetExceeded, ConfigError, LedgerUnavailable
from spanledger.ledger._batch import AwaitingBatches, BlockingBatches
from spanledger.ledger._embedded import EmbeddedPostgres
from spanledger.ledger._queues import ITEMS_MAX

LOCK_KEY = "select pg_advisory_xact_lock(hashtextextended('default' || %s, 0))"
BLOCKED = (
    "select pid from pg_locks where not granted "
    "and database = (select oid from pg_database where datname = current_database())"
)
OURS = (
    "select pid from pg_stat_activity where datname = current_database() and application_name = 'spanledger' "
    "and backend_type = 'client backend' and pid <> pg_backend_pid()"
)
ASKS = (
    "select query from pg_stat_activity where datname = current_database() and state = 'active' "
    "and application_name = 'spanledger'"
)
STATEMENTS = "select count(distinct xmin::text) from spanledger.call"


def numbered(n: int, tool: str = "refund") -> ToolCall:
    return ToolCall(tool, {"n": n}, workflow_id="w")


async def blocked(sql: psycopg.Connection) -> list[int]:
    """Wait until somebody is blocked and return who."""
    end_s = time.monotonic() + 10
    while not (pids := [pid for (pid,) in sql.execute(BLOCKED).fetchall()]):
        assert time.monotonic() < end_s, "nobody was blocked"
        await asyncio.sleep(0.01)
    return pids


async def asked_next(sql: psycopg.Connection, *, after: str) -> set[str]:
    """What our connections ask when they have stopped asking one function."""
    end_s = time.monotonic() + 5
    while True:
        sql.execute("select pg_stat_clear_snapshot()")  # a transaction sees the same activity all the time
        asked = {text.partition("spanledger_v1.")[2].partition("(")[0] for (text,) in sql.execute(ASKS).fetchall()}
        if asked and after not in asked:
            return asked
        assert time.monotonic() < end_s, f"still asked: {asked}"
        await asyncio.sleep(0.01)


async def run(ledger: AsyncLedger, *numbers: int) -> list[object]:
    """Run numbered calls at once; what they return or raise."""
    calls = (ledger.run(numbered(n), lambda n=n: n) for n in numbers)
    return await asyncio.gather(*calls, return_exceptions=True)


def test_of_a_thousand_tasks_each_gets_its_own_answer_from_few_statements(dsn: str, sql) -> None:
    async def main() -> None:
        async with AsyncLedger(dsn) as ledger:
            assert await run(ledger, *range(1000)) == list(range(1000))
            assert await run(ledger, *range(1000)) == list(range(1000))

    asyncio.run(main())
    assert sql.execute(STATEMENTS).fetchone()[0] < 500


def test_of_many_threads_each_gets_its_own_answer(dsn: str, sql) -> None:
    with Ledger(dsn) as ledger, ThreadPoolExecutor(32) as pool:
        for _ in range(2):
            values = pool.map(lambda n: ledger.run(numbered(n % 300), lambda: n % 300), range(600))
            assert list(values) == [n % 300 for n in range(600)]
    assert len(sql.execute("select from spanledger.call where state = 'succeeded'").fetchall()) == 300


def test_the_next_are_asked_for_before_those_who_were_answered_go_on(dsn: str, sql) -> None:
    went_on: list[float] = []

    def busy() -> None:
        time.sleep(0.02)  # as a tool does that blocks its loop
        went_on.append(time.time())

    async def main() -> None:
        async with AsyncLedger(dsn) as ledger:
            for first in (0, 100, 200):  # from now on they ask together, in statements that are prepared
                await run(ledger, *range(first, first + ITEMS_MAX))
            await asyncio.gather(*(ledger.run(numbered(n, "busy"), busy) for n in range(3 * ITEMS_MAX)))

    asyncio.run(main())
    began = sql.execute(
        "select extract(epoch from started_at)::float from spanledger_v1.calls where tool = 'busy' order by started_at"
    ).fetchall()
    (second_statement,) = began[ITEMS_MAX]
    assert second_statement < went_on[0]


def test_a_budget_admits_as_many_together_as_one_after_the_other(dsn: str) -> None:
    async def main() -> list[object]:
        async with AsyncLedger(config=Config(dsn=dsn, budgets=[Budget("few", Calls(7))])) as ledger:
            return await run(ledger, *range(50))

    answers = asyncio.run(main())
    assert sum(isinstance(answer, BudgetExceeded) for answer in answers) == 43
    assert sum(isinstance(answer, int) for answer in answers) == 7


def test_one_that_the_ledger_refuses_fails_alone(dsn: str, sql) -> None:
    sql.execute("alter table spanledger.call add constraint good check (tool <> 'bad')")

    async def main() -> None:
        async with AsyncLedger(dsn) as ledger:
            bad = asyncio.create_task(ledger.run(numbered(1, "bad"), lambda: pytest.fail("ran")))
            assert await run(ledger, *range(30)) == list(range(30))
            with pytest.raises(ConfigError, match=r"the ledger cannot take this: .*good"):
                await bad

    asyncio.run(main())


def test_threads_are_not_harmed_by_one_that_is_refused(dsn: str, sql) -> None:
    sql.execute("alter table spanledger.call add constraint good check (tool <> 'bad')")
    with Ledger(dsn) as ledger, ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(ledger.run, numbered(n, "refund" if n % 4 else "bad"), lambda n=n: n) for n in range(64)]
        for n, future in enumerate(asked):
            if n % 4:
                assert future.result() == n
            else:
                assert isinstance(future.exception(), ConfigError)


def test_who_is_cancelled_breaks_nothing_for_the_others_and_claims_nothing(dsn: str, sql) -> None:
    async def main() -> None:
        async with AsyncLedger(dsn) as ledger:
            assert await run(ledger, *range(8)) == list(range(8))  # from now on they ask together
            with sql.transaction():
                sql.execute(LOCK_KEY, (ledger.key(numbered(100)),))
                tasks = [asyncio.create_task(ledger.run(numbered(n), lambda n=n: n)) for n in range(100, 120)]
                await blocked(sql)
                for task in tasks[::2]:
                    task.cancel()
                await asyncio.sleep(0)
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert answers[1::2] == list(range(101, 120, 2))
            assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
            states = [row["state"] for row in await ledger.calls(limit=1000)]
            assert set(states) <= {"succeeded", "released", "failed"}
            assert states.count("succeeded") == 18
            # Who was cancelled can be asked again.
            assert await run(ledger, *range(100, 120)) == list(range(100, 120))

    asyncio.run(main())


def test_where_nobody_wants_the_answer_any_more_the_question_is_taken_back(dsn: str, sql) -> None:
    async def main() -> None:
        async with AsyncLedger(dsn) as ledger:
            await run(ledger, *range(8))
            with sql.transaction():
                sql.execute(LOCK_KEY, (ledger.key(numbered(100)),))
                tasks = [asyncio.create_task(ledger.run(numbered(n), lambda: pytest.fail("ran"))) for n in (100, 101)]
                await blocked(sql)
                for task in tasks:
                    task.cancel()
                # The question is taken back while its claim is still locked; giving the claim back waits for the lock.
                assert await asked_next(sql, after="begin") == {"fail"}
            async with asyncio.timeout(8):
                await asyncio.wait(tasks)
            assert all(task.cancelled() for task in tasks)
            assert not await ledger.calls(state="in_flight")

    asyncio.run(main())


@pytest.mark.parametrize("others", [2, 18, 150])
def test_a_call_that_hangs_holds_up_no_other_for_long(others: int, dsn: str, sql) -> None:
    async def main() -> None:
        async with AsyncLedger(dsn) as ledger:
            with sql.transaction():
                sql.execute(LOCK_KEY, (ledger.key(numbered(1)),))
                hangs = asyncio.create_task(ledger.run(numbered(1), lambda: "in the end"))
                await blocked(sql)
                async with asyncio.timeout(8):
                    assert await run(ledger, *range(2, 2 + others)) == list(range(2, 2 + others))
                assert not hangs.done()
            assert await hangs == "in the end"

    asyncio.run(main())


def test_a_call_that_hangs_among_many_holds_up_only_those_that_were_asked_with_it(dsn: str, sql) -> None:
    async def main() -> None:
        async with AsyncLedger(dsn) as ledger:
            await run(ledger, 0)
            with sql.transaction():
                sql.execute(LOCK_KEY, (ledger.key(numbered(5)),))
                tasks = [asyncio.create_task(ledger.run(numbered(n), lambda n=n: n)) for n in range(1, 4 * ITEMS_MAX)]
                end_s = time.monotonic() + 5
                while sum(not task.done() for task in tasks) > ITEMS_MAX:
                    assert time.monotonic() < end_s, f"{sum(task.done() for task in tasks)} of {len(tasks)} are done"
                    await asyncio.sleep(0.01)
                assert not tasks[4].done()
            assert await asyncio.gather(*tasks) == list(range(1, 4 * ITEMS_MAX))

    asyncio.run(main())


def test_a_connection_that_is_lost_under_many_is_asked_again_by_each(dsn: str, sql) -> None:
    async def main() -> None:
        async with AsyncLedger(dsn) as ledger:
            await run(ledger, *range(8))
            with sql.transaction():
                sql.execute(LOCK_KEY, (ledger.key(numbered(100)),))
                asked = asyncio.create_task(run(ledger, *range(100, 130)))
                for pid in await blocked(sql):
                    sql.execute("select pg_terminate_backend(%s)", (pid,))
            assert await asked == list(range(100, 130))

    asyncio.run(main())


@contextlib.contextmanager
def impatient(batches: AwaitingBatches | BlockingBatches) -> Iterator[None]:
    """Wait for a server that is known to be frozen so long; for one that is not, as long as a busy machine may take."""
    patience_s, batches._timeout_s = batches._timeout_s, 0.3
    yield
    batches._timeout_s = patience_s


def test_many_give_up_a_server_that_has_frozen_and_go_on_with_another_connection(dsn: str, sql) -> None:
    async def main() -> None:
        async with AsyncLedger(dsn) as ledger:
            await run(ledger, *range(8))
            batches = ledger._database._loop().batches
            frozen = [pid for (pid,) in sql.execute(OURS).fetchall()]
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            try:
                with impatient(batches):
                    answers = await run(ledger, *range(100, 110))
            finally:
                for pid in frozen:
                    os.kill(pid, signal.SIGCONT)
            assert all(isinstance(answer, LedgerUnavailable) for answer in answers)
            assert "did not answer within 0.3 s" in str(answers[0])
            assert await run(ledger, *range(200, 210)) == list(range(200, 210))

    asyncio.run(main())


def test_a_thread_gives_up_a_server_that_has_frozen(dsn: str, sql) -> None:
    with Ledger(dsn) as ledger:
        ledger.run(numbered(1), lambda: 1)
        (frozen,) = [pid for (pid,) in sql.execute(OURS).fetchall()]
        os.kill(frozen, signal.SIGSTOP)
        try:
            with (
                impatient(ledger._database._threads.batches),
                pytest.raises(LedgerUnavailable, match=r"did not answer within 0\.3 s"),
            ):
                ledger.run(numbered(2), lambda: pytest.fail("ran"))
        finally:
            os.kill(frozen, signal.SIGCONT)
        assert ledger.run(numbered(3), lambda: 3) == 3


class _Interrupted(BaseException):
    """As Ctrl-C is one."""


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals go to the main thread")
def test_a_thread_that_is_interrupted_while_it_asks_claims_nothing(dsn: str, sql, monkeypatch) -> None:
    def interrupt(*_: object) -> None:
        raise _Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with Ledger(dsn) as ledger, sql.transaction():
            ledger.run(numbered(1), lambda: 1)
            sql.execute(LOCK_KEY, (ledger.key(numbered(2)),))
            threading.Thread(target=lambda: (asyncio.run(blocked(sql)), os.kill(os.getpid(), signal.SIGUSR1))).start()
            with pytest.raises(_Interrupted):
                ledger.run(numbered(2), lambda: pytest.fail("ran"))
        with Ledger(dsn) as ledger:
            assert ledger.run(numbered(2), lambda: 2) == 2
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_loops_in_threads_have_queues_of_their_own(dsn: str) -> None:
    ledger = AsyncLedger(dsn)

    async def main(first: int) -> list[object]:
        return await run(ledger, *range(first, first + 50))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda n: asyncio.run(main(n)), (0, 25))) == [list(range(50)), list(range(25, 75))]


@pytest.fixture
def lonely_primary(tmp_path: Path) -> Iterator[str]:
    """DSN of a server whose commits wait for a standby that does not exist."""
    server = EmbeddedPostgres(tmp_path / "primary", settings={"fsync": "off", "shared_buffers": "1MB"}, linger_s=0.1)
    with Ledger(server.dsn()) as ledger:
        ledger.migrate()
        ledger.run(numbered(0), lambda: 0)
    with psycopg.connect(server.dsn(), autocommit=True) as sql:
        sql.execute("alter system set synchronous_standby_names = 'nobody'")
        sql.execute("select pg_reload_conf()")
    yield server.dsn()
    server.release()


def test_a_commit_that_the_server_stopped_waiting_for_is_no_answer(lonely_primary: str) -> None:
    waiting = "select pid from pg_stat_activity where wait_event = 'SyncRep'"
    with Ledger(lonely_primary) as ledger, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ledger.run, numbered(1), lambda: pytest.fail("ran"))
        with psycopg.connect(lonely_primary, autocommit=True) as sql:
            while not (pids := sql.execute(waiting).fetchall()):
                pass
            sql.execute("select pg_cancel_backend(%s)", pids[0])
        with pytest.raises(LedgerUnavailable, match="on one server only"):
            asked.result()
