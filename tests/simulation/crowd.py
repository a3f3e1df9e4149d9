"""Hundreds of clients behind a transaction pooler that has a few connections for all of them.

    python -m tests.simulation.crowd [--processes 10] [--clients 50] [--calls 6]

Half of the processes use threads and half one event loop. Every client makes calls of its own, of which one budget
admits some, and asks for keys that all want. It starts a private server and a pooler, and ends with an error if the
budget was overrun, a shared key ran twice, a client was refused what it should have had, or it took too long.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from tests.ledger.pooler import pgbouncer

from spanledger import AsyncLedger, Budget, Config, Ledger, Money, Rule, ToolCall
from spanledger.errors import BudgetExceeded
from spanledger.ledger._embedded import EmbeddedPostgres

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["spanledger"])
PRICE = Money("0.10", "EUR")
SHARED_KEYS = 5
# On a machine with few cores most of the time is spent waiting for them.
LEDGER_TIMEOUT_S = 50.0


@dataclass(frozen=True)
class Crowd:
    """Who comes.

    Attributes:
        dsn: The way through the pooler.
        folder: Where the effects of the shared keys are, one file each, which can be made once.
        processes: How many.
        clients: Threads or tasks in each.
        calls: Calls of its own that each client makes.
        affordable: How many of all those the budget admits.
    """

    dsn: str
    folder: str
    processes: int
    clients: int
    calls: int
    affordable: int

    def config(self) -> Config:
        """The configuration of every process."""
        budget = Budget("euros", Money(PRICE.amount * self.affordable, PRICE.currency), match="refund")
        rules = (Rule("*", lease_s=60.0, wait_timeout_s=LEDGER_TIMEOUT_S),)
        return Config(dsn=self.dsn, rules=rules, budgets=(budget,), ledger_timeout_s=LEDGER_TIMEOUT_S)


@dataclass(frozen=True)
class Came:
    """How it went.

    Attributes:
        admitted: Calls that ran.
        refused: Calls that the budget refused.
        shared: How often the effect of a shared key happened; each once is SHARED_KEYS.
        connections: Of the pooler to the server, at most.
        took_s: From the first client to the last.
    """

    admitted: int
    refused: int
    shared: int
    connections: int
    took_s: float


def play(crowd: Crowd, direct: str) -> Came:
    """Let them come, all at once.

    Args:
        crowd: Who.
        direct: The way around the pooler.
    """
    barrier = CONTEXT.Barrier(crowd.processes + 1)
    pairs = [CONTEXT.Pipe(duplex=False) for _ in range(crowd.processes)]
    work = [awaiting if number % 2 else blocking for number in range(crowd.processes)]
    processes = [
        CONTEXT.Process(target=come, args=(barrier, pairs[n][1], work[n], crowd, n), daemon=True)
        for n in range(crowd.processes)
    ]
    for process in processes:
        process.start()
    barrier.wait(60)
    started_s = time.monotonic()
    with counting(direct) as connections:
        answers = [reader.recv() if reader.poll(120) else TimeoutError("a process hangs") for reader, _ in pairs]
    took_s = time.monotonic() - started_s
    for process in processes:
        process.join(10)
    if wrong := [answer for answer in answers if isinstance(answer, BaseException)]:
        raise wrong[0]
    admitted, refused = (sum(numbers) for numbers in zip(*answers, strict=True))
    return Came(admitted, refused, len(list(Path(crowd.folder).iterdir())), max(connections), took_s)


def come(barrier: Any, writer: Any, work: Any, crowd: Crowd, number: int) -> None:
    """What a process does."""
    try:
        barrier.wait(60)
        writer.send(work(crowd, number))
    except BaseException as error:
        writer.send(error)


def own(who: tuple[int, int], n: int) -> ToolCall:
    return ToolCall("refund", {"who": list(who), "n": n}, workflow_id="crowd", cost=PRICE)


def shared(n: int) -> ToolCall:
    return ToolCall("greet", {"n": n}, workflow_id="crowd")


def greet(crowd: Crowd, n: int) -> int:
    """The effect of a shared key: a second one is an error."""
    Path(crowd.folder, str(n)).touch(exist_ok=False)
    return n


def blocking(crowd: Crowd, number: int) -> tuple[int, int]:
    """Clients that are threads."""
    with Ledger(config=crowd.config()) as ledger, ThreadPoolExecutor(crowd.clients) as pool:

        def client(seat: int) -> int:
            admitted = 0
            for n in range(crowd.calls):
                try:
                    ledger.run(own((number, seat), n), lambda: 1)
                    admitted += 1
                except BudgetExceeded:
                    pass
            key = seat % SHARED_KEYS
            assert ledger.run(shared(key), lambda: greet(crowd, key)) == key
            return admitted

        admitted = sum(pool.map(client, range(crowd.clients)))
    return admitted, crowd.clients * crowd.calls - admitted


def awaiting(crowd: Crowd, number: int) -> tuple[int, int]:
    """Clients that are tasks."""

    async def client(ledger: AsyncLedger, seat: int) -> int:
        admitted = 0
        for n in range(crowd.calls):
            try:
                await ledger.run(own((number, seat), n), lambda: 1)
                admitted += 1
            except BudgetExceeded:
                pass
        key = seat % SHARED_KEYS
        assert await ledger.run(shared(key), lambda: greet(crowd, key)) == key
        return admitted

    async def main() -> int:
        async with AsyncLedger(config=crowd.config()) as ledger:
            return sum(await asyncio.gather(*(client(ledger, seat) for seat in range(crowd.clients))))

    admitted = asyncio.run(main())
    return admitted, crowd.clients * crowd.calls - admitted


@contextmanager
def counting(dsn: str) -> Iterator[list[int]]:
    """Count the connections to a database, now and then."""
    query = (
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() "
        "and backend_type = 'client backend'"
    )
    counts, stop = [0], threading.Event()

    def count() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not stop.wait(0.05):
                counts.append(connection.execute(query).fetchone()[0])  # type: ignore[index]

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join()


def check(crowd: Crowd, came: Came, direct: str, size: int) -> None:
    """What holds after every crowd."""
    told = f"{crowd}: {came}"
    assert came.admitted == crowd.affordable, told
    assert came.admitted + came.refused == crowd.processes * crowd.clients * crowd.calls, told
    assert came.shared == SHARED_KEYS, told
    assert came.connections <= size, told
    with Ledger(direct) as ledger:
        balance = ledger.budget("euros")
        assert (balance.spent, balance.held) == (balance.limit, Money("0", "EUR")), told


def main() -> None:
    """Play one large crowd."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=10)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--calls", type=int, default=6)
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "effects").mkdir()
        server = EmbeddedPostgres(folder, linger_s=0.0)
        try:
            direct = server.dsn()
            with Ledger(direct) as ledger, pgbouncer(direct, folder, "transaction", given.connections) as through:
                ledger.migrate()
                affordable = given.processes * given.clients * given.calls // 3
                figures = (given.processes, given.clients, given.calls, affordable)
                crowd = Crowd(through(direct), str(folder / "effects"), *figures)
                came = play(crowd, direct)
                check(crowd, came, direct, given.connections)
        finally:
            server.release()
    asked = came.admitted + came.refused + given.processes * given.clients
    print(f"{given.processes * given.clients} clients, {came.connections} connections: {came}")
    print(f"{asked / came.took_s:.0f} calls/s; the budget was spent to the cent and no shared key ran twice")
    if came.took_s > given.seconds:
        raise SystemExit(f"it took {came.took_s:.0f} s, more than {given.seconds:.0f}")


if __name__ == "__main__":
    main()
