"""Waiting until what a model call held is settled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from spanledger import Balance


def until_nothing_is_held(balance: Callable[[], Balance]) -> Balance:
    """What is dropped settles in a thread of its own."""
    for thread in threading.enumerate():
        if thread.name == "spanledger-dropped":
            thread.join(30)  # its span ends after the ledger has heard
    for _ in range(600):
        if balance().held.steps == 0:
            return balance()
        time.sleep(0.05)
    raise AssertionError(f"still held: {balance()}")
