"""How the ledger stands, as gauges.

Rules: whoever collects metrics is given what was read last and waits for nothing. The ledger is asked in a thread of
its own, one at a time, at most every `READ_EVERY_S`, only while metrics are collected and only by a process that uses
the ledger already. Where it does not answer, or the role may not ask, the figures are absent: an old figure would look
like a true one.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from spanledger.core.money import figure
from spanledger.telemetry import instruments, semconv
from spanledger.telemetry._declared import METRICS
from spanledger.telemetry.metrics import SCOPE, bounded

logger = logging.getLogger("spanledger.telemetry")

READ_EVERY_S: Final = 55.0  # below the minute after which a reader collects by default


class Spooled(Protocol):
    """What waits on disk."""

    @property
    def entries(self) -> int:
        """Outcomes that wait."""
        ...

    @property
    def oldest_age_s(self) -> float | None:
        """For how long the oldest has waited."""
        ...

    @property
    def refused(self) -> int:
        """Outcomes that could not be kept."""
        ...

    @property
    def aside(self) -> int:
        """Outcomes that the ledger will never take."""
        ...


class Source(Protocol):
    """Where the figures come from."""

    @property
    def in_use(self) -> bool:
        """This process uses the ledger."""
        ...

    def figures(self) -> Mapping[str, Any]:
        """Ask the ledger."""
        ...

    def spool(self) -> Spooled | None:
        """Look what waits on disk."""
        ...

    @property
    def trail_lost(self) -> int:
        """Entries of the decision trace that this process could not tell the ledger."""
        ...


class _Shown:
    """What is shown, and the reading that is under way."""

    def __init__(self) -> None:
        self.source: Source | None = None
        self._lock = threading.Lock()
        self._found: Mapping[str, Any] = {}
        self._read_at_s = -READ_EVERY_S
        # By process id: a forked child has none of its parent's threads.
        self._reading_pid = 0
        self._registered = False

    def connect(self, source: Source) -> None:
        with self._lock:
            self.source, self._found, self._read_at_s = source, {}, -READ_EVERY_S
            registered, self._registered = self._registered, True
        if not registered:
            _register()

    def now(self) -> Mapping[str, Any]:
        """What was read last; a new reading begins where that is long ago."""
        with self._lock:
            source, pid, now_s = self.source, os.getpid(), time.monotonic()
            if source is None or not source.in_use:
                return {}
            if self._reading_pid != pid and now_s - self._read_at_s >= READ_EVERY_S:
                self._reading_pid, self._read_at_s = pid, now_s
                threading.Thread(target=self._read, args=(source,), name="spanledger-gauges", daemon=True).start()
            return self._found

    def _read(self, source: Source) -> None:
        found: Mapping[str, Any] = {}
        try:
            found = source.figures()
        except Exception as error:  # noqa: BLE001 - whatever it is, there are no figures
            logger.info("how the ledger stands cannot be read for metrics: %s", error)
        with self._lock:
            self._found = found if self.source is source else {}
            self._reading_pid = 0

    def is_reading(self) -> bool:
        return self._reading_pid == os.getpid()


_shown: Final = _Shown()


def connect(source: Source) -> None:
    """Show figures of this source from now on."""
    _shown.connect(source)


def refreshed(timeout_s: float) -> bool:
    """Wait until nothing is being read; False where something still is."""
    deadline_s = time.monotonic() + timeout_s
    while _shown.is_reading() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return not _shown.is_reading()


def _register() -> None:
    meter = metrics.get_meter(SCOPE)
    for name, observe in _OBSERVED.items():
        declared = METRICS[name]
        make = meter.create_observable_counter if declared.kind == "counter" else meter.create_observable_gauge
        make(name, [_quiet(observe)], declared.unit, declared.meaning)


def _quiet(observe: Callable[[], Iterable[Observation]]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def callback(_options: CallbackOptions) -> Iterable[Observation]:
        try:
            return list(observe())
        except Exception:
            logger.warning("a gauge could not be read", exc_info=True)
            return []

    return callback


def _of_budgets(figure_name: str) -> Callable[[], Iterator[Observation]]:
    def observe() -> Iterator[Observation]:
        for budget in _shown.now().get("budgets", ()):
            labels = {semconv.BUDGET_NAME: bounded(budget["name"]), semconv.UNIT: budget["unit"]}
            yield Observation(figure(budget["unit"], budget[figure_name]), labels)

    return observe


def _of_ledger(name: str) -> Callable[[], Iterator[Observation]]:
    def observe() -> Iterator[Observation]:
        value = _shown.now().get(name)
        if value is not None:
            yield Observation(value)

    return observe


def _of_spool(name: str) -> Callable[[], Iterator[Observation]]:
    def observe() -> Iterator[Observation]:
        source = _shown.source
        spool = source.spool() if source is not None and source.in_use else None
        value = None if spool is None else getattr(spool, name)
        if value is not None:
            yield Observation(value)

    return observe


def _of_trail() -> Iterator[Observation]:
    # Nobody is asked for it, and it may well be that the ledger is not in use because it does not answer.
    if _shown.source is not None:
        yield Observation(_shown.source.trail_lost)


_OBSERVED: Final[Mapping[str, Callable[[], Iterator[Observation]]]] = {
    instruments.BUDGET_LIMIT: _of_budgets("limit"),
    instruments.BUDGET_SPENT: _of_budgets("spent"),
    instruments.BUDGET_HELD: _of_budgets("held"),
    instruments.APPROVALS_PENDING: _of_ledger("pending"),
    instruments.APPROVALS_AGE: _of_ledger("pending_age_s"),
    instruments.CALLS_UNKNOWN: _of_ledger("unknown"),
    instruments.SPOOL_ENTRIES: _of_spool("entries"),
    instruments.SPOOL_AGE: _of_spool("oldest_age_s"),
    instruments.SPOOL_REFUSED: _of_spool("refused"),
    instruments.SPOOL_ASIDE: _of_spool("aside"),
    instruments.TRAIL_LOST: _of_trail,
}
