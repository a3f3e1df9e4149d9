"""Connections of one event loop.

Rules: a connection is opened by the task that needs it and kept for the next; no task of ours lives in the loop. (A
pool with workers would be one too many here: the workers of `psycopg_pool` go on after a cancellation that meets them
at work, and then `asyncio.run` waits for them for ever.) All are closed with the loop: `asyncio.run` closes every
asynchronous generator of its loop, and no other sign of the end exists.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

import psycopg
from psycopg.pq import TransactionStatus

from spanledger.ledger._functions import no_connection

CONNECTIONS_MAX = 8
IDLE_MAX_S = 300.0

Connect = Callable[[], Awaitable[psycopg.AsyncConnection]]


class LoopConnections:
    """Lends connections to the tasks of one event loop.

    Args:
        connect: Opens one.
        timeout_s: How long a task waits for one.
        closed: Called when all have been closed.
    """

    def __init__(self, connect: Connect, *, timeout_s: float, closed: Callable[[], None]) -> None:
        self.pid = os.getpid()
        self._connect = connect
        self._timeout_s = timeout_s
        self._closed = closed
        self._free = asyncio.Semaphore(CONNECTIONS_MAX)
        self._idle: list[tuple[psycopg.AsyncConnection, float]] = []
        self._keeper: AsyncGenerator[None, None] | None = None

    @contextlib.asynccontextmanager
    async def lent(self) -> AsyncIterator[psycopg.AsyncConnection]:
        """Lend a connection.

        Raises:
            LedgerUnavailable: None was to be had in time.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._free.acquire()
        except TimeoutError:
            raise no_connection() from None
        try:
            connection = await self._idle_one() or await self._connect()
            try:
                yield connection
            finally:
                await self._take_back(connection)
        finally:
            self._free.release()

    async def forget(self) -> None:
        """Close the connections that nobody uses: one was found broken, so may be the others."""
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            await connection.close()

    async def close(self) -> None:
        """Close the connections that nobody uses, for good."""
        if self._keeper is not None:
            await self._keeper.aclose()

    async def _idle_one(self) -> psycopg.AsyncConnection | None:
        if self._keeper is None:
            self._keeper = self._until_closed()
            await anext(self._keeper)
        while self._idle:
            connection, since_s = self._idle.pop()
            if not connection.closed and time.monotonic() - since_s < IDLE_MAX_S:
                return connection
            await connection.close()
        return None

    async def _take_back(self, connection: psycopg.AsyncConnection) -> None:
        if connection.info.transaction_status is TransactionStatus.IDLE and self._keeper is not None:
            self._idle.append((connection, time.monotonic()))
        else:
            await connection.close()

    async def _until_closed(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._keeper = None
            self._closed()
            await self.forget()
