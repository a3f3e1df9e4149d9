"""Tells the ledger what waits on disk, in the background.

Rules: one daemon thread per process, and only while something waits. It tries at once, then again after a pause that
grows to `PAUSE_S_MAX`, until nothing waits or the ledger is closed. Nobody waits for it. After a fork a child starts
one of its own when it needs to.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from spanledger.ledger._spool import Spool, Tell

logger = logging.getLogger("spanledger.ledger")

PAUSE_S_MIN = 0.25
PAUSE_S_MAX = 15.0
STOP_TIMEOUT_S = 1.0


class Courier:
    """Empties the spool of one ledger.

    Args:
        spool: Says which it is; None where there is none.
        tell: Asks the ledger.
    """

    def __init__(self, spool: Callable[[], Spool | None], tell: Tell) -> None:
        self._spool = spool
        self._tell = tell
        # By process id: a forked child has its parent's locks and none of its threads.
        self._rounds: dict[int, _Round] = {}

    def start(self) -> None:
        """See to it that a thread is at work while something waits."""
        self._rounds.setdefault(os.getpid(), _Round(self._deliver)).start()

    def stop(self) -> None:
        """Leave what waits to whoever comes next."""
        ended = self._rounds.pop(os.getpid(), None)
        if ended is not None:
            ended.stop()

    def _deliver(self) -> bool:
        """Tell all that waits; True where nothing waits any more."""
        spool = self._spool()
        if spool is None:
            return True
        try:
            spool.tidy()
            spool.deliver(self._tell, spool.waiting())
        except Exception as error:  # noqa: BLE001 - the next try may get through
            logger.warning("outcomes wait for the ledger in %s: %s", spool.directory, str(error).strip())
        return not spool.waiting()


class _Round:
    """The work of one process, until it is stopped."""

    def __init__(self, deliver: Callable[[], bool]) -> None:
        self._deliver = deliver
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._wanted = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        with self._lock:
            self._wanted = True
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._run, name="spanledger-courier", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        pause_s = PAUSE_S_MIN
        while self._goes_on():
            if not self._deliver():
                self._again()
                self._stopped.wait(pause_s)
                pause_s = min(pause_s * 2, PAUSE_S_MAX)

    def _again(self) -> None:
        with self._lock:
            self._wanted = True

    def _goes_on(self) -> bool:
        """Take up what is wanted; without it, or once stopped, the thread ends."""
        with self._lock:
            wanted, self._wanted = self._wanted and not self._stopped.is_set(), False
            if not wanted:
                self._thread = None
            return wanted
