"""agent-ledger as a contender; runs in a virtual environment that has `agent-ledger[postgres]==0.2.1`.

    PYTHON -m tests.benchmarks.peer    # obeys orders, see `acting`

Rules: its `PostgresStore` with its defaults, on a pool of as many connections as the others have. The pool
commits by itself, which is its best case: by default every statement would be a transaction of three round trips.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import psycopg_pool
from agent_ledger import EffectLedger, EffectLedgerOptions, ToolCall
from agent_ledger.stores.postgres import SCHEMA_SQL, PostgresStore
from tests.benchmarks.acting import serve

CONNECTIONS = 8


class Peer:
    """`EffectLedger`; it has no budgets."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._ledger = EffectLedger(EffectLedgerOptions(store=PostgresStore(pool)))
        self._replayed = called(f"replayed {uuid.uuid4().hex}")

    async def fresh(self, tool: str) -> None:
        await self._ledger.run(called(), _one)

    async def replay(self, tool: str) -> None:
        await self._ledger.run(self._replayed, _one)

    async def own(self, name: str, seconds: float) -> None:
        async def handler(effect: object) -> int:
            return await asyncio.sleep(seconds, 1)

        await self._ledger.run(called(name), handler)

    async def wait(self, name: str) -> None:
        await self._ledger.run(called(name), _unexpected)

    async def close(self) -> None:
        await self._pool.close()


def called(name: str | None = None) -> ToolCall:
    """A call of this name, or one that nobody has seen."""
    return ToolCall(workflow_id="w", tool="bench", args={"n": name or uuid.uuid4().hex}, call_id="c")


async def _one(effect: object) -> int:
    return 1


async def _unexpected(effect: object) -> int:
    raise RuntimeError("the call ran twice")


async def _peer(dsn: str) -> Peer:
    pool = psycopg_pool.AsyncConnectionPool(
        dsn, min_size=CONNECTIONS, max_size=CONNECTIONS, kwargs={"autocommit": True}, open=False
    )
    await pool.open(wait=True)
    async with pool.connection() as connection:
        await connection.execute(SCHEMA_SQL)
    peer = Peer(pool)
    await peer.replay("")
    return peer


if __name__ == "__main__":
    serve({"peer": _peer})
