"""Locks that live as long as the process."""

from __future__ import annotations

import os

import pytest
from tests.forks import forked_while_held

from spanledger import _numbers
from spanledger._inside import Inside
from spanledger.core import occurrences
from spanledger.core.locks import ProcessLock
from spanledger.telemetry import trail

LOCKS = {
    "numbers": _numbers._lock,
    "inside": Inside._lock,
    "occurrences": occurrences._lock,
    "trail": trail._lock,
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_a_forked_child_can_take_what_a_thread_of_its_parent_held(lock: ProcessLock) -> None:
    def take() -> int:
        with lock, lock:
            return 7

    assert forked_while_held(lock, take) == 7
