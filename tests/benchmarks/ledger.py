"""A guarded call against the least that Postgres could be asked to do.

    python -m tests.benchmarks.ledger [--dsn DSN] [--rounds N] [--calls N]

The floor is two prepared statements per call, INSERT … ON CONFLICT DO NOTHING RETURNING and UPDATE … RETURNING, through
psycopg, autocommit, on the same server in the same run. Rounds of ours and of the floor alternate, and the figure to
quote is the median of the ratios of neighbouring rounds: it holds where the machine's speed drifts. Without a DSN a
private server is started, with fsync on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import statistics
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool

from spanledger import AsyncLedger, Budget, Calls, Config, Ledger, ToolCall
from spanledger.ledger._embedded import EmbeddedPostgres

TASKS = 32
PROCESSES = 4
Round = Callable[[int], float]
Load = Callable[[str, int, int, float], Coroutine[Any, Any, tuple[float, float]]]

FLOOR_TABLE = """
create table if not exists floor (
    key bytea primary key, state text not null, tool text not null, workflow_id text not null, fingerprint bytea,
    arguments text, result text, attempt integer not null, started_at timestamptz not null, ended_at timestamptz)
"""
FLOOR_INSERT = """
insert into floor (key, state, tool, workflow_id, fingerprint, arguments, attempt, started_at)
values (%s, 'in_flight', 'bench', 'w', %s, '{"n": 1}', 1, now()) on conflict do nothing returning key
"""
FLOOR_UPDATE = "update floor set state = 'succeeded', result = '1', ended_at = now() where key = %s returning key"
FLOOR_SELECT = "select result from floor where key = %s"


def per_call(calls: int, call: Callable[[], object]) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(calls):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def sequential(dsn: str) -> Iterator[tuple[str, Round, Round]]:
    """Cases of one caller after the other: (name, ours, floor)."""
    with Ledger(config=Config(dsn=dsn)) as ledger, psycopg.connect(dsn, autocommit=True) as connection:
        replayed = ToolCall("bench", {"n": 1}, workflow_id="replayed")
        ledger.run(replayed, lambda: 1)
        fixed = uuid.uuid4().bytes
        connection.execute(FLOOR_INSERT, (fixed, fixed))

        def fresh_ours() -> None:
            ledger.run(ToolCall("bench", {"n": uuid.uuid4().hex}, workflow_id="w"), lambda: 1)

        def fresh_floor() -> None:
            key = uuid.uuid4().bytes
            connection.execute(FLOOR_INSERT, (key, key), prepare=True).fetchall()
            connection.execute(FLOOR_UPDATE, (key,), prepare=True).fetchall()

        def replay_ours() -> None:
            ledger.run(replayed, lambda: 1)

        def replay_floor() -> None:
            connection.execute(FLOOR_SELECT, (fixed,), prepare=True).fetchall()

        yield "fresh call, one after the other", _round(fresh_ours), _round(fresh_floor)
        yield "replay, against one bare SELECT", _round(replay_ours), _round(replay_floor)


def awaited(dsn: str) -> Iterator[tuple[str, Round, Round]]:
    """Cases of one task that awaits one call after the other: (name, ours, floor)."""

    async def ours(calls: int) -> float:
        async with AsyncLedger(config=Config(dsn=dsn)) as ledger:

            async def call() -> None:
                await ledger.run(ToolCall("bench", {"n": uuid.uuid4().hex}, workflow_id="w"), lambda: 1)

            return await _per_await(calls, call)

    async def floor(calls: int) -> float:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:

            async def call() -> None:
                key = uuid.uuid4().bytes
                await (await connection.execute(FLOOR_INSERT, (key, key), prepare=True)).fetchall()
                await (await connection.execute(FLOOR_UPDATE, (key,), prepare=True)).fetchall()

            return await _per_await(calls, call)

    async def replay_ours(calls: int) -> float:
        async with AsyncLedger(config=Config(dsn=dsn)) as ledger:
            return await _per_await(
                calls, lambda: ledger.run(ToolCall("bench", {"n": 1}, workflow_id="replayed"), lambda: 1)
            )

    async def replay_floor(calls: int) -> float:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:

            async def call() -> None:
                await (await connection.execute(FLOOR_SELECT, (b"",), prepare=True)).fetchall()

            return await _per_await(calls, call)

    yield "fresh call, awaited", lambda calls: asyncio.run(ours(calls)), lambda calls: asyncio.run(floor(calls))
    yield (
        "replay, awaited",
        lambda calls: asyncio.run(replay_ours(calls)),
        lambda calls: asyncio.run(replay_floor(calls)),
    )


async def _per_await(calls: int, call: Callable[[], Awaitable[None]]) -> float:
    times = []
    for _ in range(calls):
        begun = time.perf_counter()
        await call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def concurrent(dsn: str) -> Iterator[tuple[str, Round, Round]]:
    """Cases of many tasks at once on one hot budget: (name, ours, floor)."""
    name = f"{TASKS} tasks of one process, one hot budget (the floor has none)"
    yield name, partial(_in_one, _hot, dsn), partial(_in_one, _bare, dsn)
    name = f"{PROCESSES} processes of {TASKS // PROCESSES} tasks, one hot budget (the floor has none)"
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield name, partial(_in_many, pool, _hot, dsn), partial(_in_many, pool, _bare, dsn)


def _in_one(load: Load, dsn: str, calls: int) -> float:
    begun_s, ended_s = asyncio.run(load(dsn, calls, TASKS, 0.0))
    return (ended_s - begun_s) / calls


def _in_many(pool: Executor, load: Load, dsn: str, calls: int) -> float:
    start_s = time.time() + 0.5
    share = calls // PROCESSES
    futures = [pool.submit(_one_of_many, load, dsn, share, start_s) for _ in range(PROCESSES)]
    spans = [future.result() for future in futures]
    return (max(ended_s for _, ended_s in spans) - min(begun_s for begun_s, _ in spans)) / calls


def _one_of_many(load: Load, dsn: str, calls: int, start_s: float) -> tuple[float, float]:
    return asyncio.run(load(dsn, calls, TASKS // PROCESSES, start_s))


async def _hot(dsn: str, calls: int, tasks: int, start_s: float) -> tuple[float, float]:
    config = Config(dsn=dsn, budgets=(Budget("hot", Calls(10**12), match="hot"),))
    async with AsyncLedger(config=config) as ledger:

        async def call() -> None:
            await ledger.run(ToolCall("hot", {"n": uuid.uuid4().hex}, workflow_id="w"), lambda: 1)

        return await _at_once(calls, call, tasks, start_s)


async def _bare(dsn: str, calls: int, tasks: int, start_s: float) -> tuple[float, float]:
    async with psycopg_pool.AsyncConnectionPool(
        dsn, min_size=8, max_size=8, kwargs={"autocommit": True, "prepare_threshold": 0}
    ) as pool:

        async def call() -> None:
            key = uuid.uuid4().bytes
            async with pool.connection() as connection:
                await connection.execute(FLOOR_INSERT, (key, key))
            async with pool.connection() as connection:
                await connection.execute(FLOOR_UPDATE, (key,))

        return await _at_once(calls, call, tasks, start_s)


async def _at_once(calls: int, call: Callable[[], Awaitable[None]], tasks: int, start_s: float) -> tuple[float, float]:
    """When the work of many tasks began and ended; connections are warm, and it begins at `start_s` or at once."""
    await asyncio.gather(*(call() for _ in range(tasks)))

    async def worker() -> None:
        for _ in range(max(calls // tasks, 1)):
            await call()

    await asyncio.sleep(max(start_s - time.time(), 0.0))
    begun_s = time.time()
    await asyncio.gather(*(worker() for _ in range(tasks)))
    return begun_s, time.time()


def _round(call: Callable[[], object]) -> Round:
    return lambda calls: per_call(calls, call)


def compare(name: str, ours: Round, floor: Round, size: tuple[int, int]) -> None:
    """Alternate rounds of both and print the medians."""
    rounds, calls = size
    ours(calls // 4 or 1), floor(calls // 4 or 1)
    pairs = [(ours(calls), floor(calls)) for _ in range(rounds)]
    ratios = sorted(mine / least for mine, least in pairs)
    mine, least = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
    print(
        f"{name}: {statistics.median(ratios):.2f} x the floor "
        f"(rounds {ratios[0]:.2f} to {ratios[-1]:.2f}; {mine:.3f} ms against {least:.3f} ms)"
    )


@contextlib.contextmanager
def a_ledger(given: str | None) -> Iterator[str]:
    """DSN of a ledger: the given one, or a private one that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        server = None if given else EmbeddedPostgres(Path(folder), linger_s=0.0)
        dsn = given or (server.dsn() if server else "")
        try:
            with Ledger(config=Config(dsn=dsn)) as ledger:
                ledger.migrate()
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(FLOOR_TABLE)
            yield dsn
        finally:
            if server:
                server.release()


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn", help="a Postgres to use; a private one if not given")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=600)
    arguments = parser.parse_args()
    with a_ledger(arguments.dsn) as dsn:
        for cases in (sequential, awaited, concurrent):
            for name, ours, floor in cases(dsn):
                compare(name, ours, floor, (arguments.rounds, arguments.calls))


if __name__ == "__main__":
    main()
