"""A ledger that is waited for in vain is not waited for by every caller in turn.

Rules: once somebody has waited long and got no answer, a thread of ours asks by a connection of its own. If that is not
answered either, callers are told so at once, until it is. One connection that is broken is no silence, and neither is a
refusal that comes quickly: it costs nobody time, and whoever asks next may find the server back. A forked child starts
without an opinion.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from spanledger.errors import LedgerUnavailable

logger = logging.getLogger("spanledger.ledger")

LONG_S: Final = 1.0
PAUSE_S: Final = 0.5


class Silence:
    """Whether one ledger does not answer this process.

    Args:
        answers: Asks the ledger something; raises where it does not answer.
    """

    def __init__(self, answers: Callable[[], object]) -> None:
        self._answers = answers
        # The process in which it is silent, and the one in which a thread finds that out; 0: none.
        self._silent_pid = 0
        self._asking_pid = 0
        self._over = threading.Event()

    def heed(self) -> float:
        """Begin to wait for an answer; returns since when.

        Raises:
            LedgerUnavailable: It is silent.
        """
        if self._silent_pid and self._silent_pid == os.getpid():
            raise LedgerUnavailable(
                "the ledger did not answer when it was last asked, and has not since; is the server up?"
            )
        return time.monotonic()

    def note(self, since_s: float) -> None:
        """There was no answer."""
        if time.monotonic() - since_s < LONG_S or self._asking_pid == os.getpid():
            return
        self._over, self._asking_pid = threading.Event(), os.getpid()
        threading.Thread(target=self._listen, args=(self._over,), name="spanledger-silence", daemon=True).start()

    def end(self) -> None:
        """Find nothing out any more: the ledger is being closed."""
        self._over.set()
        self._silent_pid = self._asking_pid = 0

    def _listen(self, over: threading.Event) -> None:
        while not over.is_set():
            try:
                self._answers()
            except Exception as error:  # noqa: BLE001 - whatever it is, that is no answer
                if not (over.is_set() or self._silent_pid):
                    logger.warning("the ledger does not answer, and until it does nobody waits for it: %s", error)
                    self._silent_pid = os.getpid()
                over.wait(PAUSE_S)
                continue
            if self._silent_pid:
                logger.warning("the ledger answers again")
            self.end()
