"""Model calls that go on when their function has returned, because their stream does.

Rules: what nobody has closed when the interpreter ends settles then, as what is dropped does, and nothing begins to
settle after `SETTLE_MAX_S`. In a forked child it is over: it is its parent's, who goes on with it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final, Protocol

SETTLE_MAX_S: Final = 3.0


class GoingOn(Protocol):
    """A call that goes on."""

    def dropped(self) -> None:
        """Hear that nobody has it any more; called wherever the interpreter noticed."""
        ...

    def end_dropped(self) -> None:
        """Settle the call, of which nothing more will be heard."""
        ...

    def is_elsewhere(self) -> None:
        """Hear that another process ends the call."""
        ...


_open: weakref.WeakSet[GoingOn] = weakref.WeakSet()


def goes_on(call: GoingOn, stream: Any) -> None:
    """Have a call hear when its stream, or what will be read of it, is left without an end."""
    # Also of a generator that was never begun, and so does not run its `finally`.
    weakref.finalize(stream, call.dropped).atexit = False
    # Late, so that it is settled before those end who were there when it was made: at the end the last come first.
    _at_end()
    _open.add(call)


@functools.cache
def _at_end() -> None:
    atexit.register(_settle)


def _settle() -> None:
    until_s = time.monotonic() + SETTLE_MAX_S
    for call in list(_open):
        if time.monotonic() < until_s:
            call.end_dropped()


def _forked() -> None:
    for call in list(_open):
        call.is_elsewhere()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def elsewhere(function: Callable[[], None]) -> bool:
    """Run a function in another thread; False where none can be had, because everything is about to end."""
    with contextlib.suppress(RuntimeError):
        # A loop's own threads are waited for when it ends.
        asyncio.get_running_loop().run_in_executor(None, function)
        return True
    with contextlib.suppress(RuntimeError):
        threading.Thread(target=function, name="spanledger-dropped").start()
        return True
    return False
