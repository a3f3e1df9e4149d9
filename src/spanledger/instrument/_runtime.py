"""The engine of this process.

Rules: there is one, or none in mode "off". A guarded function that is called before anybody instrumented the process
gets one made from the environment, so that a bare `@tool` guards. `_setup` says how; nothing here knows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from spanledger.instrument._engine import Engine

_lock = threading.RLock()
_engine: Engine | None = None
_off = False
_factory: Callable[[], Engine | None] | None = None


def engine() -> Engine | None:
    """Return the engine; None in mode "off"."""
    if _engine is not None or _off:
        return _engine
    with _lock:
        if _engine is None and not _off and _factory is not None:
            use(_factory())
        return _engine


def active() -> Engine | None:
    """Return the engine that is in use, without making one."""
    return _engine


def use(made: Engine | None) -> None:
    """Make an engine the one of this process; None switches everything off."""
    global _engine, _off
    with _lock:
        _engine, _off = made, made is None


def forget() -> None:
    """Go back to the state in which the next call makes an engine."""
    global _engine, _off
    with _lock:
        _engine, _off = None, False


def made_by(factory: Callable[[], Engine | None]) -> None:
    """Say how an engine is made when one is needed."""
    global _factory  # noqa: PLW0603 - see use
    _factory = factory
