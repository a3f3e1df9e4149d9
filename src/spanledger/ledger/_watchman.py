"""Who waits in this process, and the thread that wakes them.

Rules: one daemon thread, and only while somebody waits and for a moment after. It wakes whoever waits for a key that is
heard on its line. Not everything is said, though: a lease ends in silence, and what is said while the connection is
down is lost. So it also looks, for all keys of a tenant in one statement: when the first lease ends, after every new
connection, seldom while it listens, and often where it cannot, less so the longer nothing changes. A look that fails
is tried again after a pause that grows. Who is dropped with a closed loop is forgotten at the next look.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spanledger.ledger._line import Connect, Line, Retry, jittered

logger = logging.getLogger("spanledger.ledger")

LINGER_S = 3.0
SAFETY_S = 5.0
POLL_S_MIN = 0.05
POLL_S_MAX = 1.0
POLL_GROWTH = 1.5
STOP_TIMEOUT_S = 1.0

Peek = Callable[[str, list[str]], Sequence[Mapping[str, Any]]]


class Waiter:
    """Somebody who waits for a key.

    Attributes:
        ready: Entering may return.
        woken: The key may have changed since the last wait.
    """

    def __init__(self, watchman: Watchman, tenant: str, key: str) -> None:
        self.tenant = tenant
        self.key = key
        self.ready = False
        self.woken = False
        self._watchman = watchman

    def wake(self) -> None:
        """Let a wait end, or the next one if there is none now. Called by any thread."""
        self.woken = True
        self.ring()

    def ring(self) -> None:
        """Let it look at `ready` and `woken`. Called by any thread."""
        raise NotImplementedError

    def leave(self) -> None:
        """Be forgotten."""
        self._watchman.leave(self)

    def gone(self) -> bool:
        """It can never be woken again."""
        return False

    def _woken(self) -> bool:
        """Whether it was woken, which is no news any more."""
        woken, self.woken = self.woken, False
        return woken


@dataclass(slots=True)
class _Watch:
    """Who waits for a key, and when it changes by itself."""

    waiters: set[Waiter] = field(default_factory=set)
    ends_s: float = math.inf

    def asleep(self) -> bool:
        """Whether somebody has to be woken when it changes."""
        return any(not waiter.woken for waiter in self.waiters)

    def wake(self) -> None:
        # What was expected has happened; whoever waits again says what is expected then.
        self.ends_s = math.inf
        for waiter in self.waiters:
            if not waiter.woken:
                waiter.wake()


@dataclass(slots=True)
class _Tenant:
    """What is waited for in a tenant, and when to look."""

    watches: dict[str, _Watch] = field(default_factory=dict)
    next_s: float = math.inf
    earliest_s: float = 0.0
    poll_s: float = POLL_S_MIN
    retry_s: float = POLL_S_MIN

    def due_s(self) -> float:
        """When to look next; every look is for all keys, so that one lease after the other does not cost one each."""
        ends_s = [watch.ends_s for watch in self.watches.values() if watch.asleep()]
        return max(self.earliest_s, min(self.next_s, *ends_s)) if ends_s else math.inf

    def waiters(self) -> list[Waiter]:
        return [waiter for watch in self.watches.values() for waiter in watch.waiters]


class Watchman:
    """The waiters of one process, and the thread that wakes them."""

    def __init__(self, connect: Connect, peek: Peek, *, linger_s: float, safety_s: float) -> None:
        self.line: Line | None = None
        self._pid = os.getpid()
        self._connect = connect
        self._peek = peek
        self._linger_s = linger_s
        self._safety_s = safety_s
        self._retry = Retry()
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()
        self._holder: int | None = None
        self._left: deque[Waiter] = deque()
        self._tenants: dict[str, _Tenant] = {}
        self._idle_since_s = 0.0

    # by those who wait

    def enter(self, waiter: Waiter) -> None:
        """Wake it from now on; its `ready` says when this is true."""
        with self._alone():
            tenant = self._tenants.setdefault(waiter.tenant, _Tenant())
            tenant.watches.setdefault(waiter.key, _Watch()).waiters.add(waiter)
            line = self._started()
            waiter.ready = line.decided
            tenant.poll_s = POLL_S_MIN
            tenant.next_s = min(tenant.next_s, self._next_s(tenant, line))
            self._until(line, tenant.next_s)

    def entered(self, waiter: Waiter) -> None:
        """It asks the ledger from now on: a connection that comes later has missed something."""
        with self._alone():
            waiter.ready = True

    def expect(self, waiter: Waiter, left_s: float | None) -> None:
        """Look after `left_s`, if it has to sleep."""
        if waiter.woken or self._pid != os.getpid():
            return
        with self._alone():
            tenant = self._tenants.get(waiter.tenant)
            watch = tenant.watches.get(waiter.key) if tenant else None
            if tenant is None or watch is None:
                return
            if left_s is not None:
                watch.ends_s = min(watch.ends_s, time.monotonic() + left_s)
            self._until(self._started(), max(tenant.earliest_s, min(tenant.next_s, watch.ends_s)))

    def leave(self, waiter: Waiter) -> None:
        """Forget it."""
        if self._pid != os.getpid():
            return
        self._left.append(waiter)
        # The garbage collector closes what was dropped at any moment, in a thread that may be busy right here.
        if self._holder != threading.get_ident():
            with self._alone():
                pass

    def stop(self) -> None:
        """Wake all and let the thread end."""
        with self._alone():
            line, self.line = self.line, None
            thread, self._thread = self._thread, None
            self._wake_all()
            if line is not None:
                line.nudge()
        if thread is not None and thread is not threading.current_thread():
            thread.join(STOP_TIMEOUT_S)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one thread at a time through; who has left meanwhile is forgotten."""
        with self._lock:
            self._holder = threading.get_ident()
            try:
                yield
            finally:
                while self._left:
                    self._forget(self._left.popleft())
                self._holder = None

    def _forget(self, waiter: Waiter) -> None:
        tenant = self._tenants.get(waiter.tenant)
        watch = tenant.watches.get(waiter.key) if tenant else None
        if tenant is None or watch is None:
            return
        watch.waiters.discard(waiter)
        if not watch.waiters:
            del tenant.watches[waiter.key]
        if not tenant.watches:
            del self._tenants[waiter.tenant]
        if not self._tenants:
            self._idle_since_s = time.monotonic()
            self._until(self.line, self._idle_since_s + self._linger_s)

    def _started(self) -> Line:
        if self.line is None:
            line = Line(self._connect, self._heard, self._retry)
            thread = threading.Thread(target=self._run, args=(line,), name="spanledger-wakeups", daemon=True)
            try:
                thread.start()
            except BaseException:
                line.close()
                raise
            self.line, self._thread = line, thread
        return self.line

    def _until(self, line: Line | None, at_s: float) -> None:
        """See to it that the thread does not sleep longer than this."""
        if line is not None and at_s < line.wakes_s:
            line.nudge()

    def _next_s(self, tenant: _Tenant, line: Line) -> float:
        return time.monotonic() + jittered(self._safety_s if line.up else tenant.poll_s)

    # by the thread

    def _run(self, line: Line) -> None:
        known = None
        try:
            while self._goes_on(line):
                if not line.up and time.monotonic() >= self._retry.at_s:
                    line.open()
                if known != (line.up, line.lives):
                    known = (line.up, line.lives)
                    self._begin_to_look(line)
                for tenant, keys in self._due():
                    self._look(line, tenant, keys)
                self._sleep(line)
        except Exception:
            logger.exception("nobody wakes those who wait until somebody waits again")
        finally:
            with self._alone():
                if self.line is line:
                    self.line = None
            line.close()

    def _goes_on(self, line: Line) -> bool:
        with self._alone():
            if self.line is not line:
                return False
            if not self._tenants and time.monotonic() >= self._idle_since_s + self._linger_s:
                self.line = None
                return False
            return True

    def _sleep(self, line: Line) -> None:
        with self._alone():
            if self._tenants:
                # In any case soon: a task may have been dropped with its loop, and nobody says so.
                wakes_s = min(time.monotonic() + self._safety_s, *(t.due_s() for t in self._tenants.values()))
                line.wakes_s = wakes_s if line.up else min(wakes_s, self._retry.at_s)
            else:
                line.wakes_s = self._idle_since_s + self._linger_s
        line.hear()

    def _begin_to_look(self, line: Line) -> None:
        """After a connection came or went: those who waited meanwhile may have missed something, newcomers have not."""
        with self._alone():
            line.decided = True
            for tenant in self._tenants.values():
                tenant.poll_s = POLL_S_MIN
                waiters = tenant.waiters()
                missed = any(waiter.ready for waiter in waiters)
                tenant.next_s = time.monotonic() if missed else self._next_s(tenant, line)
                for waiter in waiters:
                    waiter.ready = True
                    waiter.ring()

    def _heard(self, keys: list[str]) -> None:
        with self._alone():
            # What is said to the whole database may be of any tenant.
            for tenant in self._tenants.values():
                for key in tenant.watches.keys() & keys:
                    tenant.watches[key].wake()

    def _due(self) -> list[tuple[str, list[str]]]:
        """Say what has to be looked at now: of a tenant all or nothing."""
        with self._alone():
            for waiter in [waiter for tenant in self._tenants.values() for waiter in tenant.waiters()]:
                if waiter.gone():
                    self.leave(waiter)
            now_s = time.monotonic()
            return [
                (name, [key for key, watch in tenant.watches.items() if watch.asleep()])
                for name, tenant in self._tenants.items()
                if tenant.due_s() <= now_s
            ]

    def _look(self, line: Line, name: str, keys: list[str]) -> None:
        answers = None
        try:
            answers = self._peek(name, keys)
        except Exception as error:  # noqa: BLE001 - the next look may get through
            logger.info("%d call(s) that are waited for could not be looked at: %s", len(keys), str(error).strip())
        with self._alone():
            tenant = self._tenants.get(name)
            if tenant is None:
                return
            if answers is None:
                tenant.earliest_s = time.monotonic() + jittered(tenant.retry_s)
                tenant.retry_s = min(tenant.retry_s * 2, POLL_S_MAX)
                return
            changed = [_learn(tenant, key, answer) for key, answer in zip(keys, answers, strict=False)]
            tenant.poll_s = POLL_S_MIN if any(changed) else min(tenant.poll_s * POLL_GROWTH, POLL_S_MAX)
            tenant.retry_s = POLL_S_MIN
            tenant.earliest_s = time.monotonic() + POLL_S_MIN
            tenant.next_s = self._next_s(tenant, line)

    def _wake_all(self) -> None:
        for tenant in self._tenants.values():
            for watch in tenant.watches.values():
                watch.wake()


def _learn(tenant: _Tenant, key: str, answer: Mapping[str, Any]) -> bool:
    """Take in what the ledger says of a key; return whether it has changed."""
    watch, left_s = tenant.watches.get(key), answer.get("left_s")
    if watch is None:
        return False
    if answer.get("changed"):
        watch.wake()
        return True
    watch.ends_s = math.inf if left_s is None else time.monotonic() + float(left_s)
    return False
