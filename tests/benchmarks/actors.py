"""Our contenders and the floors they are measured against.

    python -m tests.benchmarks.actors    # obeys orders, see `acting`

Rules: ours uses the public interface alone. A floor is two prepared statements per call, INSERT … ON CONFLICT DO
NOTHING RETURNING and UPDATE … RETURNING, through psycopg with autocommit: it checks nothing, has no budget, and takes
as little as it can between its task and the server. Loops have as many connections as ours have.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator

import psycopg
from tests.benchmarks.acting import serve
from tests.benchmarks.server import hot_config

from spanledger import AsyncLedger, Ledger, ToolCall

CONNECTIONS = 8
FLOOR_TABLE = """
create table if not exists floor (
    key bytea primary key, state text not null, tool text not null, workflow_id text not null, fingerprint bytea,
    arguments text, result text, attempt integer not null, started_at timestamptz not null, ended_at timestamptz)
"""
INSERT = """
insert into floor (key, state, tool, workflow_id, fingerprint, arguments, attempt, started_at)
values (%s, 'in_flight', 'bench', 'w', %s, '{"n": 1}', 1, now()) on conflict do nothing returning key
"""
UPDATE = "update floor set state = 'succeeded', result = '1', ended_at = now() where key = %s returning key"
SELECT = "select result from floor where key = %s"
PREPARED = {"autocommit": True, "prepare_threshold": 0}


def called(tool: str, name: str | None = None) -> ToolCall:
    """A call of this name, or one that nobody has seen."""
    return ToolCall(tool, {"n": name or uuid.uuid4().hex}, workflow_id="w")


class Ours:
    """`AsyncLedger`."""

    def __init__(self, dsn: str) -> None:
        self._ledger = AsyncLedger(config=hot_config(dsn))
        self._replayed = called("cold", "replayed")

    async def opened(self) -> Ours:
        await self.replay("cold")
        return self

    async def fresh(self, tool: str) -> None:
        await self._ledger.run(called(tool), lambda: 1)

    async def replay(self, tool: str) -> None:
        await self._ledger.run(self._replayed, lambda: 1)

    async def own(self, name: str, seconds: float) -> None:
        await self._ledger.run(called("cold", name), lambda: asyncio.sleep(seconds, 1))

    async def wait(self, name: str) -> None:
        await self._ledger.run(called("cold", name), _unexpected)

    async def close(self) -> None:
        await self._ledger.close()


class OursBlocking:
    """`Ledger`."""

    def __init__(self, dsn: str) -> None:
        self._ledger = Ledger(config=hot_config(dsn))
        self._replayed = called("cold", "replayed")
        self.replay("cold")

    def fresh(self, tool: str) -> None:
        self._ledger.run(called(tool), lambda: 1)

    def replay(self, tool: str) -> None:
        self._ledger.run(self._replayed, lambda: 1)

    def close(self) -> None:
        self._ledger.close()


class Floor:
    """Two statements from an event loop; the connection is free while the tool would run."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._free = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[psycopg.AsyncConnection] = []
        self._fixed = uuid.uuid4().bytes

    async def opened(self) -> Floor:
        async with self._lent() as connection:
            await connection.execute(INSERT, (self._fixed, self._fixed))
        return self

    async def fresh(self, tool: str) -> None:
        key = uuid.uuid4().bytes
        async with self._lent() as connection:
            await (await connection.execute(INSERT, (key, key))).fetchall()
        async with self._lent() as connection:
            await (await connection.execute(UPDATE, (key,))).fetchall()

    async def replay(self, tool: str) -> None:
        async with self._lent() as connection:
            await (await connection.execute(SELECT, (self._fixed,))).fetchall()

    async def own(self, name: str, seconds: float) -> None:
        key = name.encode()
        async with self._lent() as connection:
            await connection.execute(INSERT, (key, key))
        await asyncio.sleep(seconds)
        async with self._lent() as connection:
            await connection.execute(UPDATE, (key,))
            await connection.execute("select pg_notify(%s, '')", (name,))

    async def wait(self, name: str) -> None:
        async with await psycopg.AsyncConnection.connect(self._dsn, **PREPARED) as connection:
            await connection.execute(f'listen "{name}"')
            async for _ in connection.notifies(stop_after=1):
                pass
            await (await connection.execute(SELECT, (name.encode(),))).fetchall()

    async def close(self) -> None:
        for connection in self._idle:
            await connection.close()

    @contextlib.asynccontextmanager
    async def _lent(self) -> AsyncIterator[psycopg.AsyncConnection]:
        async with self._free:
            connection = (
                self._idle.pop() if self._idle else await psycopg.AsyncConnection.connect(self._dsn, **PREPARED)
            )
            try:
                yield connection
            finally:
                self._idle.append(connection)


class FloorBlocking:
    """Two statements on one connection."""

    def __init__(self, dsn: str) -> None:
        self._sql = psycopg.connect(dsn, **PREPARED)
        self._fixed = uuid.uuid4().bytes
        self._sql.execute(INSERT, (self._fixed, self._fixed))

    def fresh(self, tool: str) -> None:
        key = uuid.uuid4().bytes
        self._sql.execute(INSERT, (key, key)).fetchall()
        self._sql.execute(UPDATE, (key,)).fetchall()

    def replay(self, tool: str) -> None:
        self._sql.execute(SELECT, (self._fixed,)).fetchall()

    def close(self) -> None:
        self._sql.close()


def _unexpected() -> None:
    raise RuntimeError("the call ran twice")


async def _ours(dsn: str) -> Ours:
    return await Ours(dsn).opened()


async def _floor(dsn: str) -> Floor:
    return await Floor(dsn).opened()


MAKERS = {"ours": _ours, "ours-blocking": OursBlocking, "floor": _floor, "floor-blocking": FloorBlocking}

if __name__ == "__main__":
    serve(MAKERS)
