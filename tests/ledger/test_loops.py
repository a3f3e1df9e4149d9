"""Programs that make event loops as they please: one after the other, in threads, several at once."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import warnings
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from spanledger import AsyncLedger, Budget, Calls, Config, Ledger, ToolCall

LOOPS = 12
CONNECTIONS = (
    "select count(*) from pg_stat_activity where application_name = 'spanledger' and datname = current_database()"
)


def refund(n: int) -> ToolCall:
    return ToolCall("refund", {"n": n}, workflow_id="w")


def wait_until_nobody_is_connected(sql: psycopg.Connection) -> None:
    until_s = time.monotonic() + 10
    while sql.execute(CONNECTIONS).fetchone() != (0,):
        assert time.monotonic() < until_s, sql.execute(CONNECTIONS).fetchone()
        time.sleep(0.02)
        gc.collect()  # a ledger that nobody closed is held by what it still tells


@pytest.fixture
def shared(dsn: str):
    """One ledger for all loops, as a program has it that makes a loop for every call."""
    return AsyncLedger(config=Config(dsn=dsn, budgets=[Budget("refunds", Calls(1_000))]))


async def several(ledger: AsyncLedger, numbers: range) -> list[object]:
    return await asyncio.gather(*(ledger.run(refund(n), lambda n=n: n) for n in numbers))


def test_loop_after_loop_in_one_thread_leaves_no_connection_behind(shared, sql) -> None:
    for number in range(LOOPS):
        assert asyncio.run(several(shared, range(number, number + 4))) == list(range(number, number + 4))
    shared._database.close()
    wait_until_nobody_is_connected(sql)


def test_loops_in_many_threads_at_once_share_a_ledger_and_leave_no_connection_behind(shared, sql) -> None:
    barrier = threading.Barrier(8)

    def work(number: int) -> list[object]:
        barrier.wait(30)
        return [value for _ in range(3) for value in asyncio.run(several(shared, range(number, number + 3)))]

    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(work, range(8)))
    assert given == [list(range(number, number + 3)) * 3 for number in range(8)]
    with Ledger(shared.config.dsn) as ledger:
        assert ledger.budget("refunds").spent == Calls(10)
    shared._database.close()
    wait_until_nobody_is_connected(sql)


def test_a_loop_that_ends_in_an_error_or_is_cancelled_leaves_no_connection_behind(shared, sql) -> None:
    async def fails() -> None:
        await several(shared, range(3))
        raise ValueError

    async def is_cancelled(first: int) -> None:
        numbers = range(first, first + 3)
        tasks = [asyncio.create_task(shared.run(refund(n), lambda: asyncio.sleep(60))) for n in numbers]
        while (await shared.calls(state="in_flight")) == []:  # noqa: ASYNC110 - the event is another process's
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise asyncio.CancelledError

    for number in range(3):
        with pytest.raises(ValueError):
            asyncio.run(fails())
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(is_cancelled(10 + 3 * number))
    shared._database.close()
    wait_until_nobody_is_connected(sql)


def test_a_connection_whose_caller_is_cancelled_before_it_is_used_is_closed(shared, sql) -> None:
    def waits_in(task: asyncio.Task[object], name: str) -> bool:
        inner = task.get_coro()
        while inner is not None and getattr(inner, "__name__", "") != name:
            inner = getattr(inner, "cr_await", None)
        return inner is not None

    async def main() -> None:
        task = asyncio.create_task(shared.calls())
        while not waits_in(task, "execute"):  # noqa: ASYNC110 - it is looked at in every turn of the loop
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    shared._database.close()
    wait_until_nobody_is_connected(sql)


def test_what_the_end_of_a_loop_closes_may_still_ask_and_leaves_no_connection_behind(shared, sql) -> None:
    kept, told = [], []

    async def stream(first: int) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.sleep(0.02)  # the loop has closed what else there is to close
            told.append(await several(shared, range(first, first + 2)))
            told.append(await several(shared, range(first + 2, first + 4)))

    async def main(number: int) -> None:
        await several(shared, range(3))
        kept.append(stream(10 * number))
        await anext(kept[-1])

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in (1, 2):
            asyncio.run(main(number))
        kept.clear()
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    assert told == [[10, 11], [12, 13], [20, 21], [22, 23]]
    shared._database.close()
    wait_until_nobody_is_connected(sql)


def test_a_ledger_for_every_loop_warns_of_nothing_that_was_left_open(dsn: str, sql) -> None:
    async def main(number: int) -> object:
        async with AsyncLedger(dsn) as ledger:
            return await ledger.run(refund(number), lambda: number)

    async def careless(number: int) -> object:
        return await AsyncLedger(dsn).run(refund(number), lambda: number)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(LOOPS):
            assert asyncio.run(main(number)) == number
            assert asyncio.run(careless(number)) == number
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    wait_until_nobody_is_connected(sql)


def test_a_ledger_is_used_by_a_loop_and_by_threads_of_that_loop_at_once(dsn: str, sql) -> None:
    with Ledger(dsn) as blocking:

        async def main() -> list[object]:
            async with AsyncLedger(dsn) as awaiting:
                jobs = [awaiting.run(refund(n), lambda n=n: n) for n in range(20)]
                jobs += [asyncio.to_thread(blocking.run, refund(n), lambda n=n: n) for n in range(20)]
                return await asyncio.gather(*jobs)

        for _ in range(3):
            assert asyncio.run(main()) == [*range(20), *range(20)]
    wait_until_nobody_is_connected(sql)
