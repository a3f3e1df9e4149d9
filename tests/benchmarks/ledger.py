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
import statistics
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psycopg
import psycopg_pool

from spanledger import AsyncLedger, Budget, Calls, Config, Ledger, ToolCall
from spanledger.ledger._embedded import EmbeddedPostgres

TASKS = 32
Round = Callable[[int], float]

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


def concurrent(dsn: str) -> Iterator[tuple[str, Round, Round]]:
    """Cases of many tasks at once on one hot budget: (name, ours, floor)."""
    config = Config(dsn=dsn, budgets=(Budget("hot", Calls(10**12), match="hot"),))

    async def ours(calls: int) -> float:
        async with AsyncLedger(config=config) as ledger:

            async def call() -> None:
                await ledger.run(ToolCall("hot", {"n": uuid.uuid4().hex}, workflow_id="w"), lambda: 1)

            return await _at_once(calls, call)

    async def floor(calls: int) -> float:
        async with psycopg_pool.AsyncConnectionPool(
            dsn, min_size=8, max_size=8, kwargs={"autocommit": True, "prepare_threshold": 0}
        ) as pool:

            async def call() -> None:
                key = uuid.uuid4().bytes
                async with pool.connection() as connection:
                    await connection.execute(FLOOR_INSERT, (key, key))
                async with pool.connection() as connection:
                    await connection.execute(FLOOR_UPDATE, (key,))

            return await _at_once(calls, call)

    name = f"{TASKS} tasks of one process, one hot budget (the floor has none)"
    yield name, lambda calls: asyncio.run(ours(calls)), lambda calls: asyncio.run(floor(calls))


async def _at_once(calls: int, call: Callable[[], Awaitable[None]]) -> float:
    """Seconds per call of `TASKS` tasks that share the work; connections are warm."""
    await asyncio.gather(*(call() for _ in range(TASKS)))

    async def worker() -> None:
        for _ in range(max(calls // TASKS, 1)):
            await call()

    begun = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(TASKS)))
    return (time.perf_counter() - begun) / (max(calls // TASKS, 1) * TASKS)


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
        for cases in (sequential, concurrent):
            for name, ours, floor in cases(dsn):
                compare(name, ours, floor, (arguments.rounds, arguments.calls))


if __name__ == "__main__":
    main()
