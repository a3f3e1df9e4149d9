"""Signs of life for running calls, and for runs of sessions.

Rules: one thread per process renews the leases of all its running calls, each at a third of its lease, one statement
per tenant and beat. It is a thread so that a blocked event loop does not look dead. It holds calls weakly: a call
that its program has dropped without a word gets no more signs of life, and its outcome becomes unknown. A beat that
fails is tried again at the next one. The thread sleeps until a sign is due, however many calls come and go meanwhile,
and ends when it wakes and nothing runs. What the parent of a fork runs is the parent's to keep alive.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from spanledger.core.asking import Ask
from spanledger.core.call import Begun, Holder, Verdict
from spanledger.core.trail import RUN_LEASE_S
from spanledger.ledger._functions import Query

logger = logging.getLogger("spanledger.ledger")

BEATS_PER_LEASE = 3
ENDS = frozenset({"settle", "fail"})
Renew = Callable[[str, list[dict[str, object]]], object]


@dataclass(slots=True)
class _Pulse:
    tenant: str
    item: dict[str, object]
    holder: weakref.ref[Holder]
    every_s: float
    until_s: float
    due_s: float


class Heartbeat:
    """Renews leases in the background.

    Args:
        renew: Renews calls of a tenant; called with the tenant and its items.
    """

    def __init__(self, renew: Renew) -> None:
        self._renew = renew
        # By process id: a thread that held the parent's lock is not in a forked child.
        self._hearts: dict[int, _Heart] = {}

    def before(self, query: Query) -> None:
        """Stop the signs of a call that is about to be settled, so that none comes after its end."""
        if isinstance(query, Ask) and query.function in ENDS:
            self._heart().drop(query.item["attempt_id"])

    def after(self, query: Query, reply: object) -> None:
        """Keep a call alive that has just begun to run, at most for its `run_max_s`."""
        if not isinstance(query, Ask) or not isinstance(reply, Begun) or reply.verdict is not Verdict.RUN:
            return
        now_s, lease_s = time.monotonic(), float(query.item["lease_s"])
        pulse = _Pulse(
            tenant=query.tenant,
            item={"key": reply.key, "attempt_id": reply.attempt_id, "lease_s": lease_s},
            holder=weakref.ref(reply.holder),
            every_s=lease_s / BEATS_PER_LEASE,
            until_s=now_s + (math.inf if query.run_max_s is None else query.run_max_s),
            due_s=now_s + lease_s / BEATS_PER_LEASE,
        )
        self._heart().keep(reply.attempt_id, pulse)

    def keep_run(self, tenant: str, run_id: str, holder: Holder) -> None:
        """Keep a run of a session alive that the ledger knows of, as long as somebody holds it."""
        every_s = RUN_LEASE_S / BEATS_PER_LEASE
        item: dict[str, object] = {"run_id": run_id, "lease_s": RUN_LEASE_S}
        due_s = time.monotonic() + every_s
        self._heart().keep(run_id, _Pulse(tenant, item, weakref.ref(holder), every_s, math.inf, due_s))

    def stop(self) -> None:
        """Give no more signs of any call of this process: the ledger is being closed."""
        self._heart().drop_all()

    def _heart(self) -> _Heart:
        pid = os.getpid()
        return self._hearts.get(pid) or self._hearts.setdefault(pid, _Heart(self._renew))


class _Heart:
    """The signs of life of one process."""

    def __init__(self, renew: Renew) -> None:
        self._renew = renew
        # Reentrant: a garbage collection in here may end a call. Taken by itself, for a condition does so in Python.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._pulses: dict[str, _Pulse] = {}
        self._beats = False
        self._wakes_s = math.inf

    def keep(self, attempt_id: str, pulse: _Pulse) -> None:
        with self._lock:
            self._pulses[attempt_id] = pulse
            if not self._beats:
                self._beats = True
                threading.Thread(target=self._run, name="spanledger-heartbeat", daemon=True).start()
            if pulse.due_s < self._wakes_s:
                self._changed.notify()

    def drop(self, attempt_id: str) -> None:
        with self._lock:
            self._pulses.pop(attempt_id, None)

    def drop_all(self) -> None:
        with self._lock:
            self._pulses.clear()
            self._changed.notify()

    def _run(self) -> None:
        while due := self._wait_for_due():
            self._beat(due)

    def _wait_for_due(self) -> list[_Pulse]:
        """Return what is due, waiting for it; nothing if nothing runs any more."""
        with self._changed:
            while True:
                now_s = time.monotonic()
                held = {k: p for k, p in self._pulses.items() if p.holder() is not None and p.until_s > now_s}
                self._pulses = held
                due = [pulse for pulse in held.values() if pulse.due_s <= now_s]
                for pulse in due:
                    pulse.due_s = now_s + pulse.every_s
                if due or not held:
                    self._beats = bool(due)
                    return due
                self._wakes_s = min(pulse.due_s for pulse in held.values())
                self._changed.wait(self._wakes_s - now_s)
                self._wakes_s = math.inf

    def _beat(self, due: list[_Pulse]) -> None:
        for tenant in {pulse.tenant for pulse in due}:
            items = [pulse.item for pulse in due if pulse.tenant == tenant]
            try:
                self._renew(tenant, items)
            except Exception as error:  # noqa: BLE001 - the next beat may get through
                logger.warning("%d running call(s) could not be kept alive: %s", len(items), error)
