"""Tells the ledger in the background what agents say of themselves.

Rules: whoever tells never waits and is never told of a failure, and an entry that cannot be written or that the ledger
refuses costs no other. Entries gather for a moment, and while a statement is under way, and go together in the next
one: a statement for each would take more of the processor than the calls that they are about. The thread begins with
the first entry and ends when there is nothing to tell; who flushes waits for no moment. At most
`ENTRIES_MAX` wait: what finds no room, what the ledger refuses, and what is left when time is up at exit is lost,
which is counted and logged. A private server is not started for what agents say alone, which waits for the first
guarded call; it is for sessions and for calls that are recorded.
A forked child has entries and a thread of its own. All time is the database's, so an entry is told with the time that
its clock showed, as far as its answers tell: to half of a short round trip.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import psycopg

from spanledger.config import Config
from spanledger.core.trail import Entry
from spanledger.errors import ConfigError
from spanledger.ledger._database import Database
from spanledger.ledger._functions import Run

logger = logging.getLogger("spanledger.ledger")

ENTRIES_MAX: Final = 10_000
BATCH_MAX: Final = 500
GATHER_S: Final = 0.05
PAUSE_S_MIN: Final = 0.25
PAUSE_S_MAX: Final = 15.0
EXIT_TIMEOUT_S: Final = 2.0
# For a private server that is only being started when the program ends.
START_TIMEOUT_S: Final = 20.0
# How fast two clocks may part.
DRIFT: Final = 1e-4

# When, whose, what, and what the ledger is told of it, once that is written.
Waiting = tuple[float, str, Entry, dict[str, Any] | None]


class Trail:
    """The entries of one ledger in this process. Safe to use from many threads.

    Args:
        database: Where they are told.
        config: Says whose entries are that do not say so themselves.
    """

    def __init__(self, database: Database, config: Config) -> None:
        self._database = database
        self._config = config
        # By process id: a forked child has its parent's locks and none of its threads.
        self._rounds: dict[int, _Round] = {}
        # Of rounds that are closed, and what never came so far.
        self._lost_before = 0
        _at_exit(self)

    @property
    def lost(self) -> int:
        """How many entries of this process were lost."""
        return self._lost_before + self._round().lost

    def tell(self, entry: Entry, happened_s: float | None = None) -> None:
        """Take an entry, and when it happened by `time.monotonic()`, now if None; it is told soon."""
        try:
            workflow_id = entry.workflow_id or (None if entry.key else self._config.workflow_id or entry.trace_id)
            if workflow_id or entry.key or entry.event == "agent":
                tenant = entry.tenant or self._config.tenant
                agent = entry.agent or self._config.agent
                if (workflow_id, agent) != (entry.workflow_id, entry.agent):
                    entry = replace(entry, workflow_id=workflow_id, agent=agent)
                if entry.session is not None and entry.event == "started":
                    entry = replace(entry, session=self._ran_as() | dict(entry.session))
                self._round().put((happened_s or time.monotonic(), tenant, entry, None))
        except Exception:
            self._lost_before += 1
            logger.exception("an entry of the decision trace is lost; nothing else is affected")

    def _ran_as(self) -> dict[str, Any]:
        """As what the agents of this process run, where nothing nearer says it."""
        return {"agent_version": self._config.agent_version, "environment": self._config.environment}

    def lose(self, why: str) -> None:
        """Count an entry that is lost before it could be told, and log it."""
        self._round().lose(why)

    def flush(self, timeout_s: float = EXIT_TIMEOUT_S) -> bool:
        """Wait until all is told; False where some of it is not yet."""
        return self._round().flush(timeout_s)

    def close(self) -> None:
        """Tell what waits, and stop; what is still there then is lost."""
        ended = self._rounds.pop(os.getpid(), None)
        if ended is not None:
            ended.close(EXIT_TIMEOUT_S)
            self._lost_before += ended.lost

    def _round(self) -> _Round:
        pid = os.getpid()
        return self._rounds.get(pid) or self._rounds.setdefault(pid, _Round(self._database))


class _Round:
    """The work of one process."""

    def __init__(self, database: Database) -> None:
        self.lost = 0
        self._database = database
        self._changed = threading.Condition()
        self._waiting: deque[Waiting] = deque()
        self._thread: threading.Thread | None = None
        self._hurried = threading.Event()
        self._under_way = 0
        self._closed = False
        self._needed = False
        self._clock = _Clock()

    @property
    def _wanted(self) -> bool:
        return self._needed or self._database.wanted

    def put(self, one: Waiting) -> None:
        with self._changed:
            if len(self._waiting) >= ENTRIES_MAX or self._closed:
                self._lose(1, "too many wait for the ledger" if not self._closed else "the ledger is closed")
                return
            self._waiting.append(one)
            self._needed = self._needed or one[2].session is not None or one[2].call is not None
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="spanledger-trail", daemon=True)
                thread.start()
                self._thread = thread

    def lose(self, why: str) -> None:
        with self._changed:
            self._lose(1, why)

    def flush(self, timeout_s: float) -> bool:
        self._hurried.set()
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None or not self._wanted, timeout_s)

    def close(self, timeout_s: float) -> None:
        starts = self._needed and not self._database.wanted
        self.flush(max(timeout_s, START_TIMEOUT_S) if starts else timeout_s)
        with self._changed:
            self._closed = True
            left = len(self._waiting) + self._under_way
            self._waiting.clear()
            if left and self._wanted:
                self._lose(left, "the ledger did not take them in time")
        self._hurried.set()

    def _run(self) -> None:
        pause_s = PAUSE_S_MIN
        while batch := self._gathered():
            batch = self._written(batch)
            if self._wanted and self._told(batch):
                pause_s = PAUSE_S_MIN
                continue
            with self._changed:
                if self._closed:
                    return
                self._waiting.extendleft(reversed(batch))
                self._under_way = 0
            if self._hurried.wait(pause_s):
                # Whoever hurries waits a bounded time; so long it is tried at short intervals.
                self._hurried.clear()
                time.sleep(PAUSE_S_MIN)
            pause_s = min(pause_s * 2, PAUSE_S_MAX) if self._wanted else PAUSE_S_MIN

    def _gathered(self) -> list[Waiting]:
        if len(self._waiting) < BATCH_MAX:
            self._hurried.wait(GATHER_S)
        return self._next()

    def _next(self) -> list[Waiting]:
        """Take the next entries of one tenant; nothing to take ends the thread."""
        with self._changed:
            tenant = self._waiting[0][1] if self._waiting else None
            one_tenant = itertools.takewhile(lambda one: one[1] == tenant, self._waiting)
            batch = list(itertools.islice(one_tenant, BATCH_MAX))
            for _ in batch:
                self._waiting.popleft()
            self._under_way = len(batch)
            if not batch:
                self._thread = None
                self._hurried.clear()
                self._changed.notify_all()
            return batch

    def _written(self, batch: Sequence[Waiting]) -> list[Waiting]:
        """Write what the ledger is told; an entry of which nothing can be written is lost alone."""
        written: list[Waiting] = []
        for at_s, tenant, entry, item in batch:
            try:
                written.append((at_s, tenant, entry, item or entry.item()))
            except Exception as error:  # noqa: BLE001 - logged with the count
                self._lose(1, f"it cannot be written: {type(error).__name__}: {error}")
        return written

    def _told(self, batch: Sequence[Waiting]) -> bool:
        """Tell entries; False where it is worth trying again."""
        if not batch:
            return True
        tenant = batch[0][1]
        try:
            if not self._clock.known:
                # The first answer takes as long as the connection, the second shows the clock.
                self._record(tenant, [])
                self._record(tenant, [])
            self._record(tenant, [{**(item or {}), "at_s": self._clock.shown(at_s)} for at_s, _, _, item in batch])
            self._alive(batch)
        except (ConfigError, psycopg.ProgrammingError) as error:
            # The schema is older, or the role may not: that does not get better soon.
            self._lose(len(batch), str(error))
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            if len(batch) == 1:
                self._lose(1, str(error))
            else:
                for one in batch:
                    self._told([one])
        except Exception as error:  # noqa: BLE001 - the next try may get through
            self._database.forget_connections()
            logger.debug("the decision trace waits for the ledger: %s", error)
            return False
        return True

    def _alive(self, batch: Sequence[Waiting]) -> None:
        for _, tenant, entry, _ in batch:
            if entry.holder is not None and entry.run_id is not None:
                self._database.heartbeat.keep_run(tenant, entry.run_id, entry.holder)

    def _record(self, tenant: str, items: list[dict[str, Any]]) -> None:
        sent_s = time.monotonic()
        answer = self._database.reply(Run("record", (tenant, items)))
        self._clock.heard(sent_s, time.monotonic(), float(answer["now_s"]))

    def _lose(self, count: int, why: str) -> None:
        self.lost += count
        # Each time it doubles, and not each time: a ledger that is down must not fill the log as well.
        if (self.lost - count).bit_length() != self.lost.bit_length():
            logger.warning("%d entries of the decision trace are lost so far: %s", self.lost, why.strip())


class _Clock:
    """What the database's clock shows, by its answers: the one that came fastest says it best, for a while."""

    def __init__(self) -> None:
        self._fastest: tuple[float, float, float] | None = None
        self._last_s = 0.0

    @property
    def known(self) -> bool:
        return self._fastest is not None

    def heard(self, sent_s: float, heard_s: float, now_s: float) -> None:
        """An answer that was asked for and came at these times says what the time was in between."""
        took_s = heard_s - sent_s
        if self._fastest is None or took_s <= self._fastest[0] + DRIFT * (heard_s - self._fastest[1]):
            self._fastest = took_s, heard_s, now_s - (sent_s + heard_s) / 2

    def shown(self, at_s: float) -> float:
        """What it showed at a time of our own clock; a better estimate puts nothing before what was told already."""
        self._last_s = max(self._last_s, at_s + (self._fastest[2] if self._fastest else 0.0))
        return self._last_s


def _at_exit(trail: Trail) -> None:
    """Tell what waits when the program ends, if the ledger still exists then."""
    alive = weakref.ref(trail)

    def close() -> None:
        found = alive()
        if found is not None:
            found.close()

    atexit.register(close)
    weakref.finalize(trail, atexit.unregister, close).atexit = False
