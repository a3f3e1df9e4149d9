"""Those who wait: woken by one connection that listens, or by few looks for all of them.

What is asked of the ledger is a stand-in here, a table and a function that also writes down how often it was asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from pooler import PGBOUNCER, SERVER_CONNECTIONS
from test_drivers import written_blocking
from workers import TIMEOUT_S, started

from spanledger.ledger import _wakeups
from spanledger.ledger._wakeups import AwaitingWaiter, BlockingWaiter, Wakeups
from spanledger.ledger._watchman import POLL_S_MIN

STAND_IN = """
create schema stand_in;
create table stand_in.call (
    tenant text, key text, changed bool default false, until timestamptz, primary key (tenant, key)
);
create table stand_in.asked (tenant text, keys int, at timestamptz default clock_timestamp());
create function stand_in.peek(p_tenant text, p_items jsonb) returns jsonb language plpgsql as $$
begin
    insert into stand_in.asked values (p_tenant, jsonb_array_length(p_items));
    return (
        select jsonb_agg(
            jsonb_build_object(
                'changed', coalesce(c.changed or c.until <= clock_timestamp(), false),
                'left_s', extract(epoch from c.until - clock_timestamp())
            ) order by i.number
        )
        from jsonb_array_elements(p_items) with ordinality as i(item, number)
        left join stand_in.call c on c.tenant = p_tenant and c.key = i.item ->> 'key'
    );
end
$$;
"""
NAME = "waits"
CONNECTIONS = "select count(*) from pg_stat_activity where application_name = %s and datname = current_database()"
# Long enough that what it was meant for has failed when it is over.
LONG_S = 20.0
pooled = pytest.mark.skipif(PGBOUNCER is None, reason="needs pgbouncer")


def key_of(number: int) -> str:
    return f"{number:064x}"


KEY = key_of(1)


class Bench:
    """What waits, and the database that it waits for."""

    def __init__(self, dsn: str, sql: psycopg.Connection) -> None:
        self.dsn = dsn
        self.sql = sql
        self.made: list[Wakeups] = []

    def wakeups(self, connect: Callable[[], psycopg.Connection] | None = None, **settings: float) -> Wakeups:
        """Waiters of their own; by default the thread never looks for safety's sake."""
        wakeups = Wakeups(connect or self.connect, self.peek, **{"safety_s": 1000.0, **settings})
        self.made.append(wakeups)
        return wakeups

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.dsn, autocommit=True, application_name=NAME)

    def peek(self, tenant: str, keys: list[str]) -> list[dict]:
        with psycopg.connect(self.dsn, autocommit=True, application_name="peek") as connection:
            items = json.dumps([{"key": key} for key in keys])
            return connection.execute("select stand_in.peek(%s, %s::jsonb)", (tenant, items)).fetchone()[0]

    def say(self, key: str) -> None:
        """As the ledger does when a change is committed."""
        self.sql.execute("select pg_notify('spanledger', %s)", (key,))

    def change(self, key: str, tenant: str = "t") -> None:
        """Change a call without a word."""
        self.sql.execute(
            "insert into stand_in.call values (%s, %s, true) on conflict (tenant, key) do update set changed = true",
            (tenant, key),
        )

    def lease(self, key: str, left_s: float, tenant: str = "t") -> None:
        self.sql.execute(
            "insert into stand_in.call values (%s, %s, false, clock_timestamp() + make_interval(secs => %s))",
            (tenant, key, left_s),
        )

    def asked(self) -> list[tuple[str, int]]:
        """What was asked: tenant and number of keys."""
        return self.sql.execute("select tenant, keys from stand_in.asked order by at").fetchall()

    def connections(self) -> int:
        return self.sql.execute(CONNECTIONS, (NAME,)).fetchone()[0]


@pytest.fixture
def bench(
    dsn: str, sql: psycopg.Connection, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    # A busy machine is no server that does not answer.
    monkeypatch.setattr(_wakeups, "READY_S_MAX", LONG_S)
    caplog.set_level(logging.INFO, "spanledger.ledger")
    sql.execute(STAND_IN)
    bench = Bench(dsn, sql)
    yield bench
    for wakeups in bench.made:
        wakeups.stop()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def wait_for(condition: Callable[[], object], timeout_s: float = LONG_S) -> None:
    """Wait for what another thread or the database brings about; its moment is not ours to know."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.01)


def waiters_of(wakeups: Wakeups) -> int:
    return sum(len(tenant.waiters()) for tenant in wakeups._watchman()._tenants.values())


def watchmen() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "spanledger-wakeups"}


# being woken


def test_a_thread_is_woken_by_what_the_database_says(bench: Bench) -> None:
    wakeups = bench.wakeups()
    with wakeups.waiting("t", KEY) as waiter, ThreadPoolExecutor(1) as pool:
        waits = pool.submit(waiter.wait, LONG_S)
        bench.say(key_of(2))
        bench.say("not a key at all: ü")
        assert not waits.done()
        bench.say(KEY)
        assert waits.result() is True
    assert bench.asked() == []


def test_a_task_is_woken_by_what_the_database_says(bench: Bench) -> None:
    async def main() -> None:
        wakeups = bench.wakeups()
        async with wakeups.waiting_awaiting("t", KEY) as waiter:
            waits = asyncio.create_task(waiter.wait(LONG_S))
            await asyncio.to_thread(bench.say, KEY)
            assert await waits is True

    asyncio.run(main())


def test_what_is_said_before_the_wait_is_remembered_once(bench: Bench) -> None:
    wakeups = bench.wakeups()
    with wakeups.waiting("t", KEY) as waiter:
        bench.say(KEY)
        assert waiter.wait(LONG_S) is True
        assert waiter.wait(0.05) is False


def test_what_a_task_is_told_before_it_waits_is_remembered_once(bench: Bench) -> None:
    async def main() -> None:
        async with bench.wakeups().waiting_awaiting("t", KEY) as waiter:
            bench.say(KEY)
            assert await waiter.wait(LONG_S) is True
            assert await waiter.wait(0.05) is False

    asyncio.run(main())


def test_a_wait_ends_on_time(bench: Bench) -> None:
    async def main() -> float:
        async with bench.wakeups().waiting_awaiting("t", KEY) as waiter:
            begun_s = time.monotonic()
            assert await waiter.wait(0.2) is False
            return time.monotonic() - begun_s

    with bench.wakeups().waiting("t", KEY) as waiter:
        begun_s = time.monotonic()
        assert waiter.wait(0.2) is False
        blocking_s = time.monotonic() - begun_s
    for waited_s in (blocking_s, asyncio.run(main())):
        # Late by a fraction of a millisecond; more only on a busy machine.
        assert 0.2 <= waited_s < 0.7


def test_the_loop_goes_on_while_somebody_begins_to_wait(bench: Bench) -> None:
    entered = threading.Event()

    def connect() -> psycopg.Connection:
        assert entered.wait(TIMEOUT_S)
        return bench.connect()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(entered.set)
        async with bench.wakeups(connect).waiting_awaiting("t", KEY) as waiter:
            bench.say(KEY)
            assert await waiter.wait(LONG_S) is True

    asyncio.run(main())


def test_of_two_tenants_with_one_key_both_are_woken(bench: Bench) -> None:
    wakeups = bench.wakeups()
    with wakeups.waiting("a", KEY) as one, wakeups.waiting("b", KEY) as other:
        bench.say(KEY)
        assert (one.wait(LONG_S), other.wait(LONG_S)) == (True, True)


# leaving


def test_a_cancelled_task_is_forgotten(bench: Bench) -> None:
    async def wait(wakeups: Wakeups, entered: asyncio.Event) -> None:
        async with wakeups.waiting_awaiting("t", KEY) as waiter:
            entered.set()
            await waiter.wait(LONG_S)

    async def main() -> None:
        wakeups, entered = bench.wakeups(), asyncio.Event()
        task = asyncio.create_task(wait(wakeups, entered))
        await entered.wait()
        assert waiters_of(wakeups) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert waiters_of(wakeups) == 0

    asyncio.run(main())


def test_a_task_that_is_cancelled_while_it_enters_is_forgotten(bench: Bench) -> None:
    go_on = threading.Event()

    def connect() -> psycopg.Connection:
        assert go_on.wait(TIMEOUT_S)
        return bench.connect()

    async def enter(wakeups: Wakeups) -> None:
        async with wakeups.waiting_awaiting("t", KEY):
            pytest.fail("entered")

    async def main() -> None:
        wakeups = bench.wakeups(connect)
        task = asyncio.create_task(enter(wakeups))
        await asyncio.sleep(0)
        assert waiters_of(wakeups) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert waiters_of(wakeups) == 0
        go_on.set()

    asyncio.run(main())


def test_an_interrupted_thread_is_forgotten(bench: Bench) -> None:
    wakeups = bench.wakeups()
    with pytest.raises(KeyboardInterrupt), wakeups.waiting("t", KEY):
        raise KeyboardInterrupt
    assert waiters_of(wakeups) == 0


@pytest.mark.parametrize("woken", [False, True])
def test_a_task_that_was_dropped_with_its_closed_loop_harms_nobody(bench: Bench, woken: bool) -> None:
    wakeups = bench.wakeups(safety_s=0.2)
    loop = asyncio.new_event_loop()
    dropped = wakeups.waiting_awaiting("t", KEY)
    loop.run_until_complete(dropped.__aenter__())
    if woken:
        dropped.wake()
    loop.close()
    with wakeups.waiting("t", KEY) as waiter:
        bench.say(KEY)
        assert waiter.wait(LONG_S) is True
    wait_for(lambda: waiters_of(wakeups) == 0)


def test_a_coroutine_that_was_dropped_is_forgotten(bench: Bench) -> None:
    wakeups = bench.wakeups()

    async def wait() -> None:
        async with wakeups.waiting_awaiting("t", KEY) as waiter:
            await waiter.wait(LONG_S)

    loop = asyncio.new_event_loop()
    task = loop.create_task(wait())
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0.01))
    assert waiters_of(wakeups) == 1
    task.get_coro().close()
    assert waiters_of(wakeups) == 0
    with contextlib.suppress(asyncio.CancelledError, RuntimeError):
        task.cancel()
        loop.run_until_complete(task)
    loop.close()
    del task
    gc.collect()


# the connection


def test_there_is_no_connection_before_somebody_waits_and_a_moment_after(bench: Bench) -> None:
    wakeups = bench.wakeups(linger_s=0.2)
    others = watchmen()
    assert bench.connections() == 0
    for _ in range(2):
        with wakeups.waiting("t", KEY):
            assert wakeups.listening
            assert bench.connections() == 1
        assert bench.connections() == 1
        wait_for(lambda: bench.connections() == 0)
        assert not wakeups.listening
    wait_for(lambda: watchmen() <= others)


def test_who_waits_again_at_once_finds_the_connection_there(bench: Bench) -> None:
    opened = []

    def connect() -> psycopg.Connection:
        opened.append(1)
        return bench.connect()

    wakeups = bench.wakeups(connect)
    for _ in range(20):
        with wakeups.waiting("t", KEY) as waiter:
            waiter.wait(0.001)
    assert opened == [1]


def test_a_hundred_waiters_have_one_connection_and_ask_nothing(bench: Bench) -> None:
    wakeups = bench.wakeups()
    barrier = threading.Barrier(51)

    def thread(number: int) -> bool:
        with wakeups.waiting("t", key_of(number)) as waiter:
            barrier.wait(TIMEOUT_S)
            return waiter.wait(LONG_S, LONG_S)

    async def task(number: int, entered: asyncio.Semaphore) -> bool:
        async with wakeups.waiting_awaiting("t", key_of(number)) as waiter:
            entered.release()
            return await waiter.wait(LONG_S, LONG_S)

    async def main() -> list[bool]:
        entered = asyncio.Semaphore(0)
        tasks = [asyncio.create_task(task(number, entered)) for number in range(50)]
        for _ in tasks:
            await entered.acquire()
        await asyncio.to_thread(barrier.wait, TIMEOUT_S)
        assert (bench.connections(), bench.asked()) == (1, [])
        bench.sql.execute(
            "select pg_notify('spanledger', lpad(to_hex(n), 64, '0')) from generate_series(0, 49) as s(n)"
        )
        return await asyncio.gather(*tasks)

    with ThreadPoolExecutor(50) as pool:
        waits = [pool.submit(thread, number) for number in range(50)]
        assert asyncio.run(main()) == [True] * 50
        assert [wait.result() for wait in waits] == [True] * 50
    assert bench.asked() == []


def test_a_lost_connection_is_replaced_and_looks_for_what_was_missed(bench: Bench) -> None:
    wakeups = bench.wakeups()
    with wakeups.waiting("t", KEY) as waiter, wakeups.waiting("t", key_of(2)) as other:
        # Said while nobody listens, as it were: in the transaction that ends the connection.
        bench.change(KEY)
        bench.sql.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s", (NAME,))
        assert waiter.wait(LONG_S) is True
        wait_for(lambda: wakeups.listening)
        bench.say(key_of(2))
        assert other.wait(LONG_S) is True
        assert bench.connections() == 1


def test_without_a_connection_that_listens_waits_end_on_time_and_looks_are_few(bench: Bench) -> None:
    def connect() -> psycopg.Connection:
        raise OSError("no more connections")

    wakeups = bench.wakeups(connect)
    with wakeups.waiting("t", KEY) as waiter:
        assert not wakeups.listening
        begun_s = time.monotonic()
        assert waiter.wait(1.0) is False
        assert time.monotonic() - begun_s < 2.0
        assert 2 <= len(bench.asked()) <= 12
        bench.change(KEY)
        assert waiter.wait(LONG_S) is True


def test_a_connection_that_can_be_had_only_later_listens_from_then_on(bench: Bench) -> None:
    tries = []

    def connect() -> psycopg.Connection:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("starting up")
        return bench.connect()

    wakeups = bench.wakeups(connect)
    with wakeups.waiting("t", KEY) as waiter:
        wait_for(lambda: wakeups.listening)
        bench.say(KEY)
        assert waiter.wait(LONG_S) is True


def test_who_enters_does_not_wait_long_for_a_server_that_does_not_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_wakeups, "READY_S_MAX", 0.05)
    answers = threading.Event()

    def connect() -> psycopg.Connection:
        assert answers.wait(TIMEOUT_S)
        return bench.connect()

    wakeups = bench.wakeups(connect)
    with wakeups.waiting("t", KEY) as waiter:
        bench.change(KEY)
        answers.set()
        # It was said before anything listened, and is looked for.
        assert waiter.wait(LONG_S) is True
    assert bench.asked() == [("t", 1)]


def test_stopping_wakes_all_and_closes_the_connection_and_who_waits_again_starts_it_again(bench: Bench) -> None:
    wakeups = bench.wakeups()
    with wakeups.waiting("t", KEY) as waiter:
        wakeups.stop()
        assert waiter.wait(LONG_S) is True
        wait_for(lambda: bench.connections() == 0)
        bench.change(KEY)
        assert waiter.wait(LONG_S) is True
        assert bench.connections() == 1


# looks


def test_when_a_lease_ends_one_look_wakes_all(bench: Bench) -> None:
    wakeups = bench.wakeups()
    bench.lease(KEY, 0.3)
    bench.lease(key_of(2), 100.0)
    with contextlib.ExitStack() as stack:
        waiters = [stack.enter_context(wakeups.waiting("t", KEY)) for _ in range(50)]
        other = stack.enter_context(wakeups.waiting("t", key_of(2)))
        pool = stack.enter_context(ThreadPoolExecutor(51))
        begun_s = time.monotonic()
        waits = [pool.submit(waiter.wait, LONG_S, 0.3) for waiter in waiters]
        still = pool.submit(other.wait, 0.5, 100.0)
        assert [wait.result() for wait in waits] == [True] * 50
        assert 0.3 <= time.monotonic() - begun_s < LONG_S / 2
        assert still.result() is False
    assert bench.asked() == [("t", 2)]


def test_a_lease_that_was_renewed_is_looked_at_when_it_ends_then(bench: Bench) -> None:
    wakeups = bench.wakeups()
    with wakeups.waiting("t", KEY) as waiter:
        begun_s = time.monotonic()
        bench.lease(KEY, 1.0)
        assert waiter.wait(LONG_S, 0.1) is True
        assert time.monotonic() - begun_s >= 1.0
    assert bench.asked() == [("t", 1), ("t", 1)]


def test_leases_that_end_one_after_the_other_share_looks(bench: Bench) -> None:
    wakeups = bench.wakeups()
    begun_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        for number in range(100):
            bench.lease(key_of(number), 0.2 + number * 0.002)
            waiter = stack.enter_context(wakeups.waiting("t", key_of(number)))
            wakeups._watchman().expect(waiter, 0.2 + number * 0.002)
        wait_for(lambda: not any(watch.asleep() for watch in wakeups._watchman()._tenants["t"].watches.values()))
    assert len(bench.asked()) <= 2 + (time.monotonic() - begun_s) / POLL_S_MIN


def test_what_changes_without_a_word_is_found_by_a_rare_look(bench: Bench) -> None:
    wakeups = bench.wakeups(safety_s=0.3)
    with wakeups.waiting("t", KEY) as waiter, wakeups.waiting("t", key_of(2)):
        bench.change(KEY)
        assert waiter.wait(LONG_S) is True
    assert bench.asked() == [("t", 2)]


def test_every_tenant_is_asked_for_once_with_all_its_keys(bench: Bench) -> None:
    wakeups = bench.wakeups(safety_s=0.3)
    with contextlib.ExitStack() as stack:
        waiters = [
            stack.enter_context(wakeups.waiting(tenant, key_of(number))) for tenant in "abc" for number in range(5)
        ]
        for tenant in "abc":
            bench.change(key_of(0), tenant)
        assert [waiter.wait(LONG_S) for waiter in waiters if waiter.key == key_of(0)] == [True] * 3
        asked = bench.asked()
    assert {("a", 5), ("b", 5), ("c", 5)} <= set(asked) <= {(tenant, keys) for tenant in "abc" for keys in (4, 5)}


def test_a_look_that_fails_is_tried_again(bench: Bench) -> None:
    wakeups = bench.wakeups()
    bench.lease(KEY, 0.1)
    bench.sql.execute("alter function stand_in.peek(text, jsonb) rename to gone")
    with wakeups.waiting("t", KEY) as waiter:
        assert waiter.wait(0.4, 0.1) is False
        bench.sql.execute("alter function stand_in.gone(text, jsonb) rename to peek")
        assert waiter.wait(LONG_S) is True
    assert bench.asked() == [("t", 1)]


# forks and poolers


def test_the_two_kinds_of_waiters_are_twins() -> None:
    for name in ("wait", "__exit__"):
        awaiting = {"__exit__": "__aexit__"}.get(name, name)
        blocking = written_blocking(getattr(BlockingWaiter, name))
        assert written_blocking(getattr(AwaitingWaiter, awaiting)).replace(awaiting, name) == blocking


def wait_and_fork(writer, dsn: str) -> None:
    """Wait, fork, and wait in the child and in the parent."""
    _wakeups.READY_S_MAX = LONG_S
    with psycopg.connect(dsn, autocommit=True) as sql:
        bench = Bench(dsn, sql)
        wakeups = bench.wakeups()
        with wakeups.waiting("t", KEY) as waiter:
            child = os.fork()
            if child == 0:
                own = Bench(dsn, psycopg.connect(dsn, autocommit=True))
                with wakeups.waiting("t", KEY) as mine:
                    both = own.connections() == 2
                    own.say(KEY)
                    woken = mine.wait(LONG_S)
                wakeups.stop()
                del waiter
                gc.collect()
                os._exit(0 if woken and both else 1)
            woken = waiter.wait(LONG_S)
            _, status = os.waitpid(child, 0)
            # The connection has survived what the child did.
            bench.say(KEY)
            writer.send((woken, waiter.wait(LONG_S), wakeups.listening, bench.connections(), status, bench.asked()))
        wakeups.stop()


def test_a_forked_child_listens_by_itself_and_leaves_its_parent_alone(bench: Bench) -> None:
    worker, reader = started(wait_and_fork, bench.dsn)
    assert reader.poll(TIMEOUT_S)
    assert reader.recv() == (True, True, True, 1, 0, [])
    worker.join(TIMEOUT_S)
    assert worker.exitcode == 0


@pooled
def test_behind_a_pooler_in_transaction_mode_a_hundred_waiters_cost_few_looks(
    bench: Bench,
    pooler: Callable[[str], str],
) -> None:
    bench.dsn = pooler(bench.dsn)
    wakeups = bench.wakeups()
    with contextlib.ExitStack() as stack:
        waiters = [stack.enter_context(wakeups.waiting("t", key_of(number))) for number in range(100)]
        pool = stack.enter_context(ThreadPoolExecutor(100))
        assert not wakeups.listening
        before = len(bench.asked())
        waits = [pool.submit(waiter.wait, 2.0, LONG_S) for waiter in waiters]
        assert [wait.result() for wait in waits] == [False] * 100
        assert 2 <= len(bench.asked()) - before <= 16
        bench.change(KEY)
        assert waiters[1].wait(LONG_S) is True
        assert set(bench.asked()[before:]) <= {("t", 100), ("t", 99)}
        # No server process was left listening for nobody.
        servers = [stack.enter_context(psycopg.connect(bench.dsn)) for _ in range(SERVER_CONNECTIONS)]
        for server in servers:
            assert server.execute("select count(*) from pg_listening_channels()").fetchone() == (0,)


@pooled
def test_behind_a_pooler_in_session_mode_waiters_are_woken(
    bench: Bench,
    session_pooler: Callable[[str], str],
) -> None:
    bench.dsn = session_pooler(bench.dsn)
    wakeups = bench.wakeups()
    with wakeups.waiting("t", KEY) as waiter:
        assert wakeups.listening
        bench.say(KEY)
        assert waiter.wait(LONG_S) is True
    assert bench.asked() == []
