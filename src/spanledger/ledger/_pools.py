"""Connections that are lent for one exchange: those of the threads of a process, and those of an event loop.

Rules: pools start empty and stay small. The threads' is one of `psycopg_pool`. In a loop, who needs a connection and
finds none idle opens it, and no task of ours tends any: the workers of `psycopg_pool` go on after a cancellation that
meets them at work, and then `asyncio.run` waits for them for ever. The one used last is lent first, so that the others
grow old and are closed. What a loop has is closed with it: `asyncio.run` closes every asynchronous generator of its
loop, and no other sign of the end exists. A pool belongs to one process; a fork's child makes its own and leaves the
parent's alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import psycopg
import psycopg_pool

from spanledger.ledger._bounded import BoundedConnection
from spanledger.ledger._functions import no_connection
from spanledger.ledger._wire import AwaitingWire, BlockingWire

CONNECTIONS_MAX = 8
IDLE_MAX_S = 300.0
NAME = "spanledger"
REPEAT_S = 60.0


class WiredConnection(BoundedConnection):
    """A pooled connection of threads, and the wire over it."""

    wire: BlockingWire


class _OnceAMinute(logging.Filter):
    """Lets our pools say a thing once a minute: while a server is down they try, and would tell, again and again."""

    def __init__(self) -> None:
        super().__init__()
        self._said_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        first = record.args[0] if isinstance(record.args, tuple) and record.args else None
        if first != NAME and not isinstance(first, WiredConnection):
            return True  # of a pool of the program's own
        now_s = time.monotonic()
        if now_s - self._said_s.get(record.msg, -REPEAT_S) < REPEAT_S:
            return False
        self._said_s[record.msg] = now_s
        return True


logging.getLogger("psycopg.pool").addFilter(_OnceAMinute())


class BlockingPool:
    """Lends connections to the threads of this process.

    Args:
        conninfo: Says where the ledger is, anew for every connection.
        pooled: Tells whether a pooler is between us and the server.
        timeout_s: How long a thread waits for one.
    """

    def __init__(
        self, conninfo: Callable[[], str], pooled: Callable[[psycopg.Connection[Any]], bool], *, timeout_s: float
    ) -> None:
        self.pid = os.getpid()
        self._pooled = pooled
        self._timeout_s = timeout_s
        self._pool = psycopg_pool.ConnectionPool(
            conninfo, min_size=0, max_size=CONNECTIONS_MAX, max_idle=IDLE_MAX_S, open=True, timeout=timeout_s,
            num_workers=1, reconnect_timeout=timeout_s, name=NAME, kwargs={"autocommit": True},
            connection_class=WiredConnection, configure=self._wire,
        )  # fmt: skip

    @contextlib.contextmanager
    def lent(self) -> Iterator[BlockingWire]:
        """Lend a connection; a generator costs more than `borrow` and `take_back`, which every call pays for.

        Raises:
            LedgerUnavailable: None was to be had in time.
        """
        wire = self.borrow()
        try:
            yield wire
        finally:
            self.take_back(wire)

    def borrow(self) -> BlockingWire:
        """Give a connection to somebody who will `take_back` it.

        Raises:
            LedgerUnavailable: None was to be had in time.
        """
        try:
            return self._pool.getconn().wire
        except (psycopg_pool.PoolTimeout, psycopg_pool.PoolClosed) as error:
            raise no_connection() from error

    def take_back(self, wire: BlockingWire) -> None:
        """Take back what was borrowed."""
        if not wire.usable:
            wire.close()
        self._pool.putconn(wire.connection)  # type: ignore[arg-type]  # it is of this pool

    def forget(self) -> None:
        """Replace the connections that are broken: one was found to be, so may be the others."""
        with contextlib.suppress(psycopg.Error):
            self._pool.check()

    def close(self) -> None:
        """Close the connections that nobody uses, and each of the others when it is given back."""
        self._pool.close()

    def _wire(self, connection: WiredConnection) -> None:
        connection.answer_timeout_s = self._timeout_s
        connection.wire = BlockingWire(connection, prepares=not self._pooled(connection))


class AwaitingPool:
    """Lends connections to the tasks of one event loop.

    Args:
        connect: Opens one.
        timeout_s: How long a task waits for one.
    """

    def __init__(self, connect: Callable[[], Awaitable[AwaitingWire]], *, timeout_s: float) -> None:
        self.pid = os.getpid()
        self._connect = connect
        self._timeout_s = timeout_s
        # Counted here: a semaphore of asyncio takes nine calls to say that there is room.
        self._lent = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._idle: list[AwaitingWire] = []
        # The loop closes its generators when it ends. What asks later, in one of those, has a connection for itself.
        self._keeper: AsyncGenerator[None, None] | None = None
        self._over = False

    def lent(self) -> AbstractAsyncContextManager[AwaitingWire]:
        """Lend a connection.

        Raises:
            LedgerUnavailable: None was to be had in time.
        """
        return _Lent(self)

    async def borrow(self) -> AwaitingWire:
        """Give a connection to somebody who will `take_back` it."""
        if self._lent < CONNECTIONS_MAX:
            self._lent += 1
        else:
            await self._wait_for_a_place()
        try:
            while self._idle:
                wire = self._idle.pop()
                if wire.usable and not _is_old(wire, time.monotonic()):
                    return wire
                await wire.close()
            return await self._opened()
        except BaseException:
            self._leave_a_place()
            raise

    async def take_back(self, wire: AwaitingWire) -> None:
        """Take back what was borrowed."""
        try:
            if not wire.usable or self._over:
                await wire.close()
                return
            wire.idle_since_s = now_s = time.monotonic()
            self._idle.append(wire)
            if _is_old(self._idle[0], now_s):
                await self._idle.pop(0).close()
        finally:
            self._leave_a_place()

    async def forget(self) -> None:
        """Close the connections that nobody uses: one was found broken, so may be the others."""
        idle, self._idle = self._idle, []
        for wire in idle:
            await wire.close()

    async def close(self) -> None:
        """Close the connections that nobody uses, and each of the others when it is given back."""
        self._over = True
        if self._keeper is not None:
            await self._keeper.aclose()

    async def _wait_for_a_place(self) -> None:
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout(self._timeout_s):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():  # it was left to somebody who had just gone
                self._leave_a_place()
            if isinstance(error, TimeoutError):
                raise no_connection() from None
            raise

    def _leave_a_place(self) -> None:
        """Leave it to whoever has waited longest."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._lent -= 1

    async def _opened(self) -> AwaitingWire:
        if self._keeper is None and not self._over:
            self._keeper = self._until_closed()
            await anext(self._keeper)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._connect()
        except TimeoutError as error:
            raise no_connection() from error

    async def _until_closed(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            # The loop's own hooks hang on it: kept, it would keep the loop, of which the pool lives only as long.
            self._keeper, self._over = None, True
            await self.forget()


class _Lent(AbstractAsyncContextManager[AwaitingWire]):
    """A connection, for as long as it is lent; a generator would cost twice as much, at every statement."""

    __slots__ = ("_pool", "_wire")

    def __init__(self, pool: AwaitingPool) -> None:
        self._pool = pool

    async def __aenter__(self) -> AwaitingWire:
        self._wire = await self._pool.borrow()
        return self._wire

    async def __aexit__(self, *_: object) -> None:
        await self._pool.take_back(self._wire)


def _is_old(wire: AwaitingWire, now_s: float) -> bool:
    return now_s - wire.idle_since_s > IDLE_MAX_S
