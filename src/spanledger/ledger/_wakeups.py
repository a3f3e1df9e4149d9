"""Wakes those who wait until a call has changed: one connection per process that listens, while somebody waits.

Rules: nobody who waits sleeps on the database: a thread waits for its bell, a task in its loop, and a thread of ours
(`_watchman`) rings. The two kinds of waiters differ in `await` and in their bells, nothing else.

* What is said between entering `waiting` and `wait` is remembered. Entering returns when the connection listens, or
  when it is clear that it does not, and in any case soon.
* A wait ends on time, whatever becomes of the thread or the database. It may end too early: whoever is woken asks the
  ledger again.
* Whoever leaves is forgotten, by whatever exception. A forked child has a thread and a connection of its own, and
  leaves those of its parent alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from types import TracebackType
from typing import Literal, Self

from spanledger.ledger._line import Connect
from spanledger.ledger._watchman import LINGER_S, SAFETY_S, Peek, Waiter, Watchman

# Who begins to wait waits for the connection at most so long; when it comes, it is looked for what was missed.
READY_S_MAX = 1.0
# So that an endless wait is one that the clocks can take.
SLEEP_S_MAX = 3600.0


class Wakeups:
    """Wakes the waiters of one ledger in this process. Safe to use from many threads and event loops.

    Args:
        connect: Opens a connection of one's own, in autocommit mode; may raise. It should not block for long.
        peek: Asks for keys of a tenant; answers in their order with ``changed`` and ``left_s``, the seconds until
            something will have changed by itself, or None. May raise.
        linger_s: How long the connection is kept when nobody waits any more.
        safety_s: How often the thread looks while it listens.
    """

    def __init__(self, connect: Connect, peek: Peek, *, linger_s: float = LINGER_S, safety_s: float = SAFETY_S) -> None:
        self._connect = connect
        self._peek = peek
        self._linger_s = linger_s
        self._safety_s = safety_s
        # By process id: a forked child has its parent's locks and none of its threads.
        self._watchmen: dict[int, Watchman] = {}

    @property
    def listening(self) -> bool:
        """Whether a connection listens at this moment."""
        line = self._watchman().line
        return line is not None and line.up

    def waiting(self, tenant: str, key: str) -> BlockingWaiter:
        """Wait in this thread: ``with wakeups.waiting(tenant, key) as waiter: … waiter.wait(wait_s, left_s)``."""
        return BlockingWaiter(self._watchman(), tenant, key)

    def waiting_awaiting(self, tenant: str, key: str) -> AwaitingWaiter:
        """Wait in the running loop: as `waiting`, with ``async with`` and ``await``."""
        return AwaitingWaiter(self._watchman(), tenant, key)

    def stop(self) -> None:
        """Wake everybody and close the connection: the ledger is being closed. Who waits again starts it again."""
        self._watchman().stop()

    def _watchman(self) -> Watchman:
        pid = os.getpid()
        found = self._watchmen.get(pid)
        if found is None:
            new = Watchman(self._connect, self._peek, linger_s=self._linger_s, safety_s=self._safety_s)
            found = self._watchmen.setdefault(pid, new)
        return found


class BlockingWaiter(Waiter):
    """A thread that waits."""

    def enter(self) -> Self:
        """Be woken from now on, until it leaves."""
        self._bell = threading.Event()
        try:
            self._watchman.enter(self)
            self._sleep("ready", READY_S_MAX)
            self._watchman.entered(self)
        except BaseException:
            self._watchman.leave(self)
            raise
        return self

    def __enter__(self) -> Self:
        return self.enter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.leave()

    def wait(self, wait_s: float, left_s: float | None = None) -> bool:
        """Wait until the call may have changed since the last wait (or since entering).

        Args:
            wait_s: At most so long.
            left_s: Something changes by itself after so long (a lease ends): then the ledger is looked at.

        Returns:
            Whether it may have changed; False if `wait_s` is over.
        """
        self._watchman.expect(self, left_s)
        self._sleep("woken", wait_s)
        return self._woken()

    def ring(self) -> None:
        """Let it look at `ready` and `woken`."""
        self._bell.set()

    def _sleep(self, sign: Literal["ready", "woken"], wait_s: float) -> None:
        end_s = time.monotonic() + wait_s
        # The sign is set before the bell rings, so it is looked at after the bell is silent.
        while not getattr(self, sign) and (left_s := end_s - time.monotonic()) > 0:
            self._bell.wait(min(left_s, SLEEP_S_MAX))
            self._bell.clear()


class AwaitingWaiter(Waiter):
    """A task that waits; its loop goes on."""

    async def enter(self) -> Self:
        """Be woken from now on, until it leaves."""
        self._bell = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        try:
            self._watchman.enter(self)
            await self._sleep("ready", READY_S_MAX)
            self._watchman.entered(self)
        except BaseException:
            self._watchman.leave(self)
            raise
        return self

    async def __aenter__(self) -> Self:
        return await self.enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.leave()

    async def wait(self, wait_s: float, left_s: float | None = None) -> bool:
        """Wait until the call may have changed since the last wait (or since entering).

        Args:
            wait_s: At most so long.
            left_s: Something changes by itself after so long (a lease ends): then the ledger is looked at.

        Returns:
            Whether it may have changed; False if `wait_s` is over.
        """
        self._watchman.expect(self, left_s)
        await self._sleep("woken", wait_s)
        return self._woken()

    def ring(self) -> None:
        """Let it look at `ready` and `woken`."""
        # Its loop may have been closed with the task unfinished; then it is forgotten at the next look.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._bell.set)

    def gone(self) -> bool:
        """It can never be woken again."""
        return self._loop.is_closed()

    async def _sleep(self, sign: Literal["ready", "woken"], wait_s: float) -> None:
        end_s = time.monotonic() + wait_s
        while not getattr(self, sign) and (left_s := end_s - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, SLEEP_S_MAX)):
                    await self._bell.wait()
            self._bell.clear()
