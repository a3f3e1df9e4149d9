"""Processes that end without telling Python.

Rules: what is registered with `atexit` does not run where SIGTERM ends a program, as it does uvicorn's workers, nor in
a child of `multiprocessing` or a worker of Celery, which end by `os._exit`. What waits for export or for the ledger
would be lost with them. A signal is handled only where nobody else does, and ends the program as it would have; the
others have ways of their own to say that they end, used as soon as their modules are imported. Nothing is raised here,
and nothing waits for longer than `FLUSH_MAX_S`.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable
from typing import Any, Final

import wrapt

logger = logging.getLogger("spanledger.telemetry")

FLUSH_MAX_S: Final = 3.0


def flush_at_end(flush: Callable[[], Any]) -> None:
    """Flush where a process ends without running what is registered with `atexit`.

    Args:
        flush: What to do then.
    """

    def flushed(*_: Any, **__: Any) -> None:
        # In a thread of its own: what a signal has interrupted may hold a lock that is needed.
        thread = threading.Thread(target=_quietly, args=(flush,), name="spanledger-flush", daemon=True)
        with contextlib.suppress(RuntimeError):  # no more threads: Python itself is ending
            thread.start()
            thread.join(FLUSH_MAX_S)

    def end(number: int, _: Any) -> None:
        flushed()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def of_multiprocessing(util: Any) -> None:
        # In the child, after it has forgotten its parent's.
        util.register_after_fork(flushed, lambda _: util.Finalize(None, flushed, exitpriority=0))

    def of_celery(signals: Any) -> None:
        signals.worker_process_shutdown.connect(flushed, weak=False)

    wrapt.register_post_import_hook(of_multiprocessing, "multiprocessing.util")
    wrapt.register_post_import_hook(of_celery, "celery.signals")
    unhandled = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if unhandled and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


def _quietly(flush: Callable[[], Any]) -> None:
    try:
        flush()
    except Exception:
        logger.exception("what this process has not exported is lost")
