"""A lock that a module or a class has for all that it does.

Rules: it is reentrant, because whatever allocates may collect what was left, and that may end a call or a workflow then
and there. In a forked child it is free: no other thread is left there that could let go of it. It is for what lives as
long as the process, which hears of every fork.
"""

from __future__ import annotations

import os
import threading


class ProcessLock:
    """A reentrant lock of one process; use it with `with`."""

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _renew(self) -> None:
        self._lock = threading.RLock()
