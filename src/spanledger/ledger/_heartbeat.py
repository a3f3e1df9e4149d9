"""Signs of life for running calls.

Rules: one thread per process renews the leases of all its running calls, each at a third of its lease, one statement
per tenant and beat. It is a thread so that a blocked event loop does not look dead. It holds calls weakly: a call
that its program has dropped without a word gets no more signs of life, and its outcome becomes unknown. A beat that
fails is tried again at the next one; the thread ends when nothing runs.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from spanledger.core.call import Begun

logger = logging.getLogger("spanledger.ledger")

BEATS_PER_LEASE = 3
Renew = Callable[[str, list[dict[str, object]]], object]


@dataclass(slots=True)
class _Pulse:
    begun: weakref.ref[Begun]
    lease_s: float
    until_s: float
    due_s: float


class Heartbeat:
    """Renews leases in the background.

    Args:
        renew: Renews calls of a tenant; called with the tenant and its items.
    """

    def __init__(self, renew: Renew) -> None:
        self._renew = renew
        self._changed = threading.Condition()
        self._pulses: dict[str, _Pulse] = {}
        self._pid = 0

    def begins(self, begun: Begun, *, lease_s: float, run_max_s: float | None) -> None:
        """Keep a call alive from now on, at most for `run_max_s`."""
        now_s = time.monotonic()
        until_s = float("inf") if run_max_s is None else now_s + run_max_s
        with self._changed:
            if self._pid != os.getpid():
                # What the parent of a fork runs is the parent's to keep alive.
                self._pulses, self._pid = {}, os.getpid()
            idle = not self._pulses
            pulse = _Pulse(weakref.ref(begun), lease_s, until_s, now_s + lease_s / BEATS_PER_LEASE)
            self._pulses[begun.attempt_id] = pulse
            if idle:
                threading.Thread(target=self._beat, name="spanledger-heartbeat", daemon=True).start()
            self._changed.notify()

    def ends(self, attempt_id: str) -> None:
        """Stop: the call has ended."""
        with self._changed:
            self._pulses.pop(attempt_id, None)
            self._changed.notify()

    def _beat(self) -> None:
        while True:
            with self._changed:
                due = self._due()
                if not due:
                    return
            self._send(due)

    def _due(self) -> list[tuple[Begun, float]]:
        """Wait until something is due and return it; nothing if nothing runs any more."""
        while self._pulses:
            now_s = time.monotonic()
            alive = {key: p for key, p in self._pulses.items() if p.begun() is not None and p.until_s > now_s}
            self._pulses = alive
            due = [(begun, p.lease_s) for p in alive.values() if p.due_s <= now_s and (begun := p.begun())]
            for begun, lease_s in due:
                alive[begun.attempt_id].due_s = now_s + lease_s / BEATS_PER_LEASE
            if due:
                return due
            self._changed.wait(min((p.due_s for p in alive.values()), default=now_s) - now_s)
        return []

    def _send(self, due: Iterable[tuple[Begun, float]]) -> None:
        by_tenant: dict[str, list[dict[str, object]]] = {}
        for begun, lease_s in due:
            item: dict[str, object] = {"key": begun.key, "attempt_id": begun.attempt_id, "lease_s": lease_s}
            by_tenant.setdefault(begun.tenant, []).append(item)
        for tenant, items in by_tenant.items():
            try:
                self._renew(tenant, items)
            except Exception as error:  # noqa: BLE001 - the next beat may get through
                logger.warning("%d running call(s) could not be kept alive: %s", len(items), error)
