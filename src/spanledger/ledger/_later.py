"""Outcomes that nobody waits for: the end of a call whose caller must not be blocked, told to the ledger at once.

Rules: one thread per process tells them in their order, and only while some are queued. Each of them was preceded by
a begin that its caller waited for, so one thread keeps up.

* The thread is no daemon: a program that ends, a forked worker too, ends when they are told. That is soon: after the
  first one that the ledger does not take, those behind it go to disk without being asked about.
* At most `QUEUED_MAX`. Whoever finds no room keeps the outcome on disk himself; that is the only case in which the
  caller waits, for a disk. What is lost on disk as well is logged and counted there.
* Who begins the same call meanwhile tells its outcome first, out of turn. So a program reads what it wrote.
* A child of a fork has a queue of its own; what its parent has queued, the parent tells.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from spanledger.core.asking import Ask, Keep, Steps
from spanledger.core.call import Begun, Outcome
from spanledger.errors import LedgerUnavailable

logger = logging.getLogger("spanledger.ledger")

QUEUED_MAX = 1_000

Drive = Callable[[Steps[Outcome]], Outcome]
KeepOnDisk = Callable[[Keep], bool]


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    tenant: str
    key: str
    steps: Steps[Outcome]
    drive: Drive
    done: threading.Event = field(default_factory=threading.Event)


class Later:
    """Tells the ledger how calls ended, in the background. Safe to use from many threads and event loops.

    Args:
        keep: Keeps an outcome on disk.
        timeout_s: How long to wait for what is being told.
    """

    def __init__(self, keep: KeepOnDisk, *, timeout_s: float) -> None:
        self._keep = keep
        self._timeout_s = timeout_s
        # By process id: a forked child has its parent's locks and none of its threads.
        self._queues: dict[int, _Queue] = {}

    def add(self, begun: Begun, steps: Steps[Outcome], drive: Drive) -> None:
        """Carry out the last steps of a call, soon. Never raises, and does not wait unless the queue is full.

        Args:
            begun: Which call.
            steps: Its last steps.
            drive: Carries them out, blocking.
        """
        self._queue().add(_Entry(begun.tenant, begun.key, steps, drive))

    @property
    def works(self) -> bool:
        """Some is queued, or being told."""
        return self._queue().works

    def tell_first(self, ask: Ask) -> None:
        """Before a call begins: see to it that its outcome is told, if it is queued."""
        self._queue().tell_first(ask.tenant, ask.item["key"], self._timeout_s)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all is told; False where some is not after so long."""
        return self._queue().flush(timeout_s)

    def close(self) -> None:
        """Tell all; what is not told in time goes to disk."""
        queue = self._queue()
        if not queue.flush(self._timeout_s):
            queue.to_disk("the ledger is being closed")

    def _queue(self) -> _Queue:
        pid = os.getpid()
        return self._queues.get(pid) or self._queues.setdefault(pid, _Queue(self._keep))


class _Queue:
    """What one process has to tell."""

    def __init__(self, keep: KeepOnDisk) -> None:
        self.works = False
        self._keep = keep
        # Reentrant: a garbage collection in here may end a span.
        self._changed = threading.Condition(threading.RLock())
        self._waiting: deque[_Entry] = deque()
        self._telling: _Entry | None = None

    def add(self, entry: _Entry) -> None:
        with self._changed:
            room = len(self._waiting) < QUEUED_MAX
            if room:
                self._waiting.append(entry)
            starts = room and not self.works
            self.works = self.works or starts
        if not room:
            self._to_disk(entry, f"{QUEUED_MAX} outcomes are queued already")
        elif starts:
            self._start()

    def tell_first(self, tenant: str, key: str, timeout_s: float) -> None:
        if not self.works:  # hardly ever does it work when somebody begins
            return
        with self._changed:
            entries = [*self._waiting, *([self._telling] if self._telling else [])]
            entry = next((e for e in entries if (e.tenant, e.key) == (tenant, key)), None)
            if entry is None:
                return
            mine = entry is not self._telling
            if mine:
                self._waiting.remove(entry)
        if mine:
            self._tell(entry)
        else:
            entry.done.wait(timeout_s)

    def flush(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self.works, timeout_s)

    def to_disk(self, why: str) -> None:
        while (entry := self._taken()) is not None:
            self._to_disk(entry, why)

    def _start(self) -> None:
        try:
            threading.Thread(target=self._run, name="spanledger-later", daemon=False).start()
        except RuntimeError:  # the interpreter is being shut down, or there are too many threads
            self._run()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._telling = entry = self._taken()
                if entry is None:
                    self.works = False
                    self._changed.notify_all()
                    return
            if not self._tell(entry):
                self.to_disk("the ledger did not answer before")

    def _taken(self) -> _Entry | None:
        with self._changed:
            return self._waiting.popleft() if self._waiting else None

    def _tell(self, entry: _Entry) -> bool:
        """Tell the ledger; False where it did not take it."""
        try:
            return entry.drive(entry.steps).recorded in ("succeeded", "failed", "unknown")
        except Exception:
            logger.exception("the outcome of a call could not be recorded; it counts as unknown once its lease is over")
            return True
        finally:
            entry.done.set()

    def _to_disk(self, entry: _Entry, why: str) -> None:
        try:
            _without_asking(entry.steps, self._keep, why)
        except Exception:
            logger.exception("the outcome of a call could not be kept; it counts as unknown once its lease is over")
        finally:
            entry.done.set()


def _without_asking(steps: Steps[Outcome], keep: KeepOnDisk, why: str) -> None:
    """Carry out steps as if the ledger did not answer."""
    reply: Any = None
    error: BaseException | None = None
    while True:
        try:
            step = steps.send(reply) if error is None else steps.throw(error)
        except StopIteration:
            return
        reply, error = None, None
        if isinstance(step, Keep):
            reply = keep(step)
        else:
            error = LedgerUnavailable(f"{why}, so it was not asked")
