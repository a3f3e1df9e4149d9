"""Connections that are lent for one exchange: those of the threads of a process, and those of an event loop.

Rules: pools start empty and stay small. Who needs a connection and finds none idle opens it; no thread and no task of
ours opens or tends any. (A pool with workers would be one too many in a loop: the workers of `psycopg_pool` go on after
a cancellation that meets them at work, and then `asyncio.run` waits for them for ever.) The one used last is lent
first, so that the others grow old and are closed. What a loop has is closed with it: `asyncio.run` closes every
asynchronous generator of its loop, and no other sign of the end exists. A pool belongs to one process; a fork's
child makes its own and leaves the parent's alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator

from spanledger.ledger._functions import no_connection
from spanledger.ledger._wire import AwaitingWire, BlockingWire

CONNECTIONS_MAX = 8
IDLE_MAX_S = 300.0


class BlockingPool:
    """Lends connections to the threads of this process.

    Args:
        connect: Opens one.
        timeout_s: How long a thread waits for one.
    """

    def __init__(self, connect: Callable[[], BlockingWire], *, timeout_s: float) -> None:
        self.pid = os.getpid()
        self._connect = connect
        self._timeout_s = timeout_s
        self._free = threading.Semaphore(CONNECTIONS_MAX)
        self._idle: list[BlockingWire] = []
        self._closed = False

    @contextlib.contextmanager
    def lent(self) -> Iterator[BlockingWire]:
        """Lend a connection.

        Raises:
            LedgerUnavailable: None was to be had in time.
        """
        if not self._free.acquire(timeout=self._timeout_s):
            raise no_connection()
        try:
            wire = self._idle_one() or self._connect()
            try:
                yield wire
            finally:
                self._take_back(wire)
        finally:
            self._free.release()

    def forget(self) -> None:
        """Close the connections that nobody uses: one was found broken, so may be the others."""
        while self._idle:
            # Another thread may be quicker.
            with contextlib.suppress(IndexError):
                self._idle.pop().close()

    def close(self) -> None:
        """Close the connections that nobody uses, and each of the others when it is given back."""
        self._closed = True
        self.forget()

    def _idle_one(self) -> BlockingWire | None:
        while self._idle:
            with contextlib.suppress(IndexError):
                wire = self._idle.pop()
                if wire.usable and not _is_old(wire):
                    return wire
                wire.close()
        return None

    def _take_back(self, wire: BlockingWire) -> None:
        if not wire.usable or self._closed:
            wire.close()
            return
        wire.idle_since_s = time.monotonic()
        self._idle.append(wire)
        with contextlib.suppress(IndexError):
            if _is_old(self._idle[0]):
                self._idle.pop(0).close()


class AwaitingPool:
    """Lends connections to the tasks of one event loop.

    Args:
        connect: Opens one.
        timeout_s: How long a task waits for one.
        closed: Called when all have been closed.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[AwaitingWire]], *, timeout_s: float, closed: Callable[[], None]
    ) -> None:
        self.pid = os.getpid()
        self._connect = connect
        self._timeout_s = timeout_s
        self._closed = closed
        self._free = asyncio.Semaphore(CONNECTIONS_MAX)
        self._idle: list[AwaitingWire] = []
        self._keeper: AsyncGenerator[None, None] | None = None

    @contextlib.asynccontextmanager
    async def lent(self) -> AsyncIterator[AwaitingWire]:
        """Lend a connection.

        Raises:
            LedgerUnavailable: None was to be had in time.
        """
        if self._free.locked():
            await self._wait_for_one()
        else:
            await self._free.acquire()
        try:
            wire = await self._idle_one() or await self._opened()
            try:
                yield wire
            finally:
                await self._take_back(wire)
        finally:
            self._free.release()

    async def forget(self) -> None:
        """Close the connections that nobody uses: one was found broken, so may be the others."""
        idle, self._idle = self._idle, []
        for wire in idle:
            await wire.close()

    async def close(self) -> None:
        """Close the connections that nobody uses, for good."""
        if self._keeper is not None:
            await self._keeper.aclose()

    async def _wait_for_one(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._free.acquire()
        except TimeoutError:
            raise no_connection() from None

    async def _opened(self) -> AwaitingWire:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._connect()
        except TimeoutError as error:
            raise no_connection() from error

    async def _idle_one(self) -> AwaitingWire | None:
        if self._keeper is None:
            self._keeper = self._until_closed()
            await anext(self._keeper)
        while self._idle:
            wire = self._idle.pop()
            if wire.usable and not _is_old(wire):
                return wire
            await wire.close()
        return None

    async def _take_back(self, wire: AwaitingWire) -> None:
        if not wire.usable or self._keeper is None:
            await wire.close()
            return
        wire.idle_since_s = time.monotonic()
        self._idle.append(wire)
        if _is_old(self._idle[0]):
            await self._idle.pop(0).close()

    async def _until_closed(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._keeper = None
            self._closed()
            await self.forget()


def _is_old(wire: BlockingWire | AwaitingWire) -> bool:
    return time.monotonic() - wire.idle_since_s > IDLE_MAX_S
