"""A process that is forked while one of its threads holds a lock."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager


def forked_while_held(lock: AbstractContextManager[object], in_child: Callable[[], int]) -> int:
    """Fork while another thread holds a lock, and return the exit code that the child finds."""
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            holding.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait()
    child = os.fork()
    if not child:
        # It ends itself where it waits. Another thread of its own could be taken for the one of its parent.
        signal.alarm(10)
        os._exit(in_child())
    done.set()
    thread.join()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
