"""The engine of this process, and what it is configured by.

Rules: there is one engine, or none in mode "off", and one configuration. A guarded function that is called before
anybody instrumented the process gets them from the environment, so that a bare `@tool` guards. `_setup` says how;
nothing here knows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from spanledger.config import Config
from spanledger.instrument._engine import Engine

_lock = threading.RLock()
_engine: Engine | None = None
_config: Config | None = None
_factory: Callable[[], tuple[Engine | None, Config]] | None = None


def engine() -> Engine | None:
    """Return the engine; None in mode "off"."""
    if _config is not None:
        return _engine
    with _lock:
        if _config is None and _factory is not None:
            use(*_factory())
        return _engine


def config() -> Config:
    """Return the configuration, in mode "off" as well."""
    engine()
    return _config or Config()


def active() -> Engine | None:
    """Return the engine that is in use, without making one."""
    return _engine


def use(made: Engine | None, by: Config) -> None:
    """Make an engine the one of this process; None switches everything off."""
    global _engine, _config
    with _lock:
        _engine, _config = made, by


def forget() -> None:
    """Go back to the state in which the next call makes an engine."""
    global _engine, _config
    with _lock:
        _engine, _config = None, None


def made_by(factory: Callable[[], tuple[Engine | None, Config]]) -> None:
    """Say how an engine is made when one is needed."""
    global _factory  # noqa: PLW0603 - see use
    _factory = factory
