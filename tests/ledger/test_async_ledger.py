"""`AsyncLedger`: tasks, cancellation, and event loops that come and go."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from spanledger import AsyncLedger, Budget, Config, Money, Rule, ToolCall
from spanledger.core.call import Resolution, Verdict
from spanledger.errors import BudgetExceeded, CallInProgress, ConfigError, OutcomeUnknown

REFUND = ToolCall("refund", {"order_id": "o-1", "amount": 1000}, workflow_id="w")
LOCK_CALL = "select from spanledger.call where key = decode(%s, 'hex') for update"
LOCK_KEY = "select pg_advisory_xact_lock(hashtextextended('default' || %s, 0))"
# By us: other tests block each other on the same server.
BLOCKED = "from pg_locks where not granted and pg_backend_pid() = any (pg_blocking_pids(pid))"
SOMEBODY_BLOCKED = f"exists (select {BLOCKED})"
SOMEBODY_ASKED_LATER = (
    "exists (select from pg_stat_activity where query like '%spanledger_v1.begin%' and state = 'idle' "
    "and query_start > (select started_at from spanledger.call))"
)


@asynccontextmanager
async def opened(dsn: str, **fields) -> AsyncIterator[AsyncLedger]:
    async with AsyncLedger(config=Config(dsn=dsn, **fields)) as ledger:
        yield ledger


async def until_it_is(sql: psycopg.Connection, condition: str) -> None:
    async with asyncio.timeout(30):
        while sql.execute(f"select {condition}").fetchone() == (False,):  # noqa: ASYNC110 - the event is another process's
            await asyncio.sleep(0.002)


async def never() -> None:
    pytest.fail("it ran")


async def state_of(ledger: AsyncLedger, call: ToolCall = REFUND) -> str | None:
    row = await ledger.get(ledger.key(call))
    return row and row["state"]


# as Ledger


@pytest.mark.parametrize("kind", ["coroutine function", "plain function"])
def test_a_repeated_call_gets_the_recorded_result_and_does_not_run(dsn: str, kind: str) -> None:
    async def coroutine_handler() -> tuple[str, int]:
        return ("done", 1)

    async def main() -> None:
        handler = coroutine_handler if kind == "coroutine function" else lambda: ("done", 1)
        async with opened(dsn) as ledger:
            assert await ledger.run(REFUND, handler) == ("done", 1)
            assert await ledger.run(REFUND, never) == ("done", 1)

    asyncio.run(main())


def test_everything_that_ledger_has_is_there_awaited(dsn: str) -> None:
    async def main() -> None:
        async with opened(dsn, budgets=[Budget("eur", Money("5.00", "EUR"))]) as ledger:
            assert await ledger.migrate() == []
            begun = await ledger.begin(REFUND)
            assert (begun.verdict, begun.key) == (Verdict.RUN, ledger.key(REFUND))
            assert await ledger.fail(begun, TimeoutError())
            assert await ledger.resolve(begun.key, by="ops", outcome="retry")
            assert await ledger.settle(await ledger.begin(REFUND), {"id": (1,)}, cost=Money("1", "EUR"))
            assert (await ledger.begin(REFUND)).result == {"id": (1,)}
            assert [row["key"] for row in await ledger.calls(tool="refund")] == [begun.key]
            assert [event["event"] for event in await ledger.history(begun.key)] == ["resolved", "superseded"]
            await ledger.top_up("eur", Money("1", "EUR"), by="ops")
            await ledger.apply(Config(budgets=[Budget("eur", Money("7", "EUR"))]))
            assert (await ledger.budget("eur")).remaining == Money("7", "EUR")
            assert [balance.name for balance in await ledger.budgets()] == ["eur"]
            with pytest.raises(ConfigError, match="no budget 'usd'"):
                await ledger.budget("usd")

    asyncio.run(main())


def test_errors_of_the_handler_and_refusals_come_as_they_are(dsn: str) -> None:
    error = TimeoutError("no answer")

    async def handler() -> None:
        raise error

    async def main() -> None:
        async with opened(dsn, budgets=[Budget("eur", Money("1", "EUR"))]) as ledger:
            with pytest.raises(TimeoutError) as caught:
                await ledger.run(REFUND, handler)
            assert caught.value is error
            with pytest.raises(OutcomeUnknown):
                await ledger.run(REFUND, never)
            with pytest.raises(BudgetExceeded):
                await ledger.run(ToolCall("mail", workflow_id="w", cost=Money("2", "EUR")), never)

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["coroutine function", "plain function"])
def test_a_probe_of_either_kind_finds_out(dsn: str, kind: str) -> None:
    async def coroutine_probe(call, key) -> Resolution:
        return Resolution("succeeded", "found")

    async def main() -> None:
        probe = coroutine_probe if kind == "coroutine function" else lambda call, key: Resolution("succeeded", "found")
        async with opened(dsn, rules=[Rule("refund", probe=probe)]) as ledger:
            await ledger.fail(await ledger.begin(REFUND), TimeoutError())
            assert await ledger.run(REFUND, never) == "found"

    asyncio.run(main())


# many tasks


def test_of_many_tasks_with_one_key_one_runs_and_all_have_its_result(dsn: str) -> None:
    ran = []

    async def handler() -> str:
        ran.append(1)
        await asyncio.sleep(0)
        return "done"

    async def main() -> list[str]:
        async with opened(dsn) as ledger:
            return await asyncio.gather(*(ledger.run(REFUND, handler) for _ in range(30)))

    assert (asyncio.run(main()), ran) == (["done"] * 30, [1])


def test_a_loop_is_not_blocked_while_its_tasks_wait(dsn: str) -> None:
    async def main() -> None:
        async with opened(dsn, rules=[Rule("refund", wait_timeout_s=0.2)]) as ledger:
            begun = await ledger.begin(REFUND)
            waiter = asyncio.create_task(ledger.run(REFUND, never))
            ticks = 0
            while not waiter.done():
                await asyncio.sleep(0.001)
                ticks += 1
            assert ticks > 20
            with pytest.raises(CallInProgress):
                await waiter
            assert await ledger.settle(begun, None)

    asyncio.run(main())


# cancellation


def test_a_task_that_is_cancelled_in_the_middle_leaves_the_outcome_unknown(dsn: str) -> None:
    async def main() -> None:
        running = asyncio.Event()

        async def handler() -> None:
            running.set()
            await asyncio.Event().wait()

        async with opened(dsn) as ledger:
            task = asyncio.create_task(ledger.run(REFUND, handler))
            await running.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await state_of(ledger) == "unknown"

    asyncio.run(main())


def test_a_task_that_is_cancelled_while_it_waits_holds_nothing_and_harms_nobody(dsn, sql) -> None:
    async def main() -> None:
        async with opened(dsn) as ledger:
            begun = await ledger.begin(REFUND)
            waiter = asyncio.create_task(ledger.run(REFUND, never))
            await until_it_is(sql, SOMEBODY_ASKED_LATER)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            assert await ledger.settle(begun, "done")
            # Where the answer had not come yet, it is remembered that nobody waits for it.
            assert {entry["event"] for entry in await ledger.history(begun.key)} <= {"not_invoked"}

    asyncio.run(main())


def test_a_task_that_is_cancelled_while_it_asks_has_claimed_nothing(dsn: str, sql: psycopg.Connection) -> None:
    async def main() -> None:
        async with opened(dsn) as ledger:
            await ledger.calls()  # the connection is there
            with sql.transaction():
                sql.execute(LOCK_KEY, (ledger.key(REFUND),))
                task = asyncio.create_task(ledger.run(REFUND, never))
                await until_it_is(sql, SOMEBODY_BLOCKED)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert await state_of(ledger) in (None, "failed")
            assert (await ledger.begin(REFUND)).attempts == 1

    asyncio.run(main())


@pytest.mark.parametrize("method", ["run", "begin"])
def test_a_claim_whose_answer_met_a_cancelled_task_is_given_back(dsn, sql, method: str) -> None:
    async def main() -> None:
        async with opened(dsn, budgets=[Budget("eur", Money("1", "EUR"))]) as ledger:
            await ledger.calls()
            call = ToolCall("refund", workflow_id="w", cost=Money("1", "EUR"))
            with sql.transaction():
                sql.execute(LOCK_KEY, (ledger.key(call),))
                task = asyncio.create_task(ledger.run(call, never) if method == "run" else ledger.begin(call))
                await until_it_is(sql, SOMEBODY_BLOCKED)
            # The loop stands still here, so that the answer is there and nobody has read it.
            while sql.execute("select state from spanledger.call").fetchall() != [("in_flight",)]:
                pass
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await state_of(ledger, call) == "released"
            assert (await ledger.budget("eur")).remaining == Money("1", "EUR")
            assert (await ledger.begin(call)).attempts == 1

    asyncio.run(main())


def test_a_task_that_is_cancelled_while_it_settles_has_settled(dsn: str, sql: psycopg.Connection) -> None:
    async def main() -> None:
        async with opened(dsn) as ledger:
            with sql.transaction():

                def handler() -> str:
                    sql.execute(LOCK_CALL, (ledger.key(REFUND),))
                    return "done"

                task = asyncio.create_task(ledger.run(REFUND, handler))
                await until_it_is(sql, SOMEBODY_BLOCKED)
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await ledger.run(REFUND, never) == "done"

    asyncio.run(main())


def test_tasks_that_are_cancelled_while_their_settles_wait_behind_another_have_settled(dsn, sql) -> None:
    calls = [ToolCall("refund", {"n": n}, workflow_id="w") for n in range(5)]

    async def main() -> None:
        async with opened(dsn) as ledger:
            blocked = asyncio.Event()

            async def handler() -> str:
                await blocked.wait()
                return "done"

            def holding() -> str:
                sql.execute(LOCK_CALL, (ledger.key(calls[0]),))
                return "done"

            tasks = [asyncio.create_task(ledger.run(call, handler)) for call in calls[1:]]
            await until_it_is(sql, "count(*) = 4 from spanledger.call")
            with sql.transaction():
                tasks.append(asyncio.create_task(ledger.run(calls[0], holding)))
                await until_it_is(sql, SOMEBODY_BLOCKED)
                blocked.set()
                await asyncio.sleep(0.01)
                for task in tasks:
                    task.cancel()
                await asyncio.sleep(0)
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(end) for end in ended} == {asyncio.CancelledError}
            assert [await ledger.run(call, never) for call in calls] == ["done"] * 5

    asyncio.run(main())


def test_a_task_that_is_cancelled_again_and_again_while_it_settles_goes_and_is_settled(dsn, sql) -> None:
    async def main() -> None:
        async with opened(dsn) as ledger:
            with sql.transaction():

                def handler() -> str:
                    sql.execute(LOCK_CALL, (ledger.key(REFUND),))
                    return "done"

                task = asyncio.create_task(ledger.run(REFUND, handler))
                await until_it_is(sql, SOMEBODY_BLOCKED)
                async with asyncio.timeout(5):
                    while not task.done():
                        task.cancel()
                        await asyncio.sleep(0.05)
                assert task.cancelled()
            assert await ledger.run(REFUND, never) == "done"

    asyncio.run(main())


def test_a_program_that_is_interrupted_while_it_settles_has_settled(dsn: str, sql: psycopg.Connection) -> None:
    # As Ctrl-C does: the main task is cancelled, and with its end the loop cuts off all that is left.
    ledger = AsyncLedger(dsn)
    waiting = f"select count(*) {BLOCKED}"

    def interrupt(loop: asyncio.AbstractEventLoop, main_task: asyncio.Task) -> None:
        while sql.execute(waiting).fetchone() == (0,):
            pass
        loop.call_soon_threadsafe(main_task.cancel)
        # Long enough for a settle that is given up to be given up.
        for _ in range(200):
            if sql.execute(waiting).fetchone() == (0,):
                break
        sql.rollback()

    async def main() -> None:
        thread = threading.Thread(target=interrupt, args=(asyncio.get_running_loop(), asyncio.current_task()))

        def handler() -> str:
            sql.execute("begin")
            sql.execute(LOCK_CALL, (ledger.key(REFUND),))
            thread.start()
            return "done"

        try:
            await ledger.run(REFUND, handler)
        finally:
            interrupter.append(thread)

    interrupter: list[threading.Thread] = []
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    interrupter[0].join()

    async def again() -> None:
        async with ledger:
            assert await ledger.run(REFUND, never) == "done"

    asyncio.run(again())


# loops

LOOPS = """
import asyncio, gc, sys, time
import psycopg
from spanledger import AsyncLedger, ToolCall

ledger = AsyncLedger(sys.argv[1])

async def main(n):
    asyncio.get_running_loop().slow_callback_duration = 60  # a busy machine is no warning
    calls = [ToolCall("refund", {"n": n, "i": i % 3}, workflow_id="w") for i in range(6)]
    await asyncio.gather(*(ledger.run(call, lambda: n) for call in calls))

for n in range(5):
    asyncio.run(main(n))
gc.collect()
assert len(ledger._database._loops) == 0
deadline_s = time.monotonic() + 10
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    # The server notices in its own time that a connection was closed. One is for the replays that the trace is told of.
    while connection.execute(sys.argv[2]).fetchone() > (1,):
        assert time.monotonic() < deadline_s, "connections are left"
"""


def test_loops_that_come_and_go_leave_no_connection_and_no_warning(dsn: str, sql: psycopg.Connection) -> None:
    left = (
        "select count(*) from pg_stat_activity where datname = current_database() "
        f"and pid not in (pg_backend_pid(), {sql.info.backend_pid})"
    )
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", LOOPS, dsn, left]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert sql.execute("select count(*) from spanledger.call where state = 'succeeded'").fetchone() == (15,)


ENDS_EARLY = """
import asyncio, sys
from spanledger import AsyncLedger, ToolCall

async def main(ledger, n):
    calls = [ToolCall("refund", {"n": n, "i": i}, workflow_id="w") for i in range(8)]
    tasks = [asyncio.create_task(ledger.run(call, lambda: "done")) for call in calls]
    for _ in range(n):
        await asyncio.sleep(0.002)
    # Nobody waits for the tasks: asyncio.run cancels them wherever they are.

ledger = AsyncLedger(sys.argv[1])
for n in range(12):
    asyncio.run(main(ledger, n))
"""


def test_a_program_that_ends_while_connections_are_being_opened_does_end(dsn: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS_EARLY, dsn], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_loops_in_several_threads_share_one_ledger(dsn: str) -> None:
    async def main() -> None:
        ledger, ran = AsyncLedger(dsn), []

        async def one(n: int) -> list[str]:
            calls = [ToolCall("refund", {"n": i}, workflow_id="w") for i in range(5)]
            return await asyncio.gather(*(ledger.run(call, lambda: ran.append(n) or "done") for call in calls))

        results = await asyncio.gather(*(asyncio.to_thread(asyncio.run, one(n)) for n in range(4)))
        assert results == [["done"] * 5] * 4
        assert len(ran) == 5

    asyncio.run(main())
