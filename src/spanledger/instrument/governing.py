"""`governed_client()` and `tracked_client()`: one HTTP client, whether or not its library is instrumented.

Rules: the client stays what it is; its own functions are put around, and nothing of its class is touched. Governed, all
egress rules count for it, inside a guarded tool or not. Tracked, what it sends is recorded, and nothing else becomes of
it. It may be both. What guards it, or records, is the engine of the process when it sends.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final, TypeVar

from spanledger.errors import ConfigError
from spanledger.instrument import _egress, _registry, _runtime, _tracking
from spanledger.instrument._patch import _Wrapper
from spanledger.instrument.library import Egress

C = TypeVar("C")

LIBRARIES: Final = ("httpx", "httpx2", "requests", "urllib3", "aiohttp")


def governed_client(client: C) -> C:
    """Put a client under the egress rules.

    Args:
        client: A client of httpx or httpx2, a session of requests or aiohttp, a pool or pool manager of urllib3.

    Returns:
        The client itself. A connector that several sessions of aiohttp share is governed for all of them.

    Raises:
        ConfigError: It is another kind of client.
    """
    for sending in _sendings("governed_client", client):
        sending.governed = True
    return client


def tracked_client(client: C) -> C:
    """Record every request of a client, once and as a call that has been made: its method, URL, status and time.

    Outside of guarded tools it is a call of its own, ``"{METHOD} {host}{path}"``, as `record_tool_call` records one;
    inside of one, an event of that call. From status 400 on it has failed. Of a query only the names are told. What
    egress rules refuse was not made, and what a model is asked is told as a call of that model.

    Args:
        client: As for `governed_client`; a client may be both.

    Returns:
        The client itself.

    Raises:
        ConfigError: It is another kind of client.
    """
    for sending in _sendings("tracked_client", client):
        sending.tracked = True
    return client


class _Sending:
    """A function of one client, with what is put around it."""

    def __init__(self, owner: Any, name: str, egress: Egress) -> None:
        self.governed = False
        self.tracked = False
        self._owner = owner
        self._name = name
        self._egress = egress
        plain = inspect.getattr_static(type(owner), name)
        self._awaiting = inspect.iscoroutinefunction(inspect.unwrap(plain))
        functools.update_wrapper(self, plain.__get__(owner))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # As the class has it now: its library may be instrumented after something was put around the client.
        plain = inspect.getattr_static(type(self._owner), self._name)
        send = plain.__get__(self._owner)
        engine = _runtime.engine()
        if engine is None:
            return send(*args, **kwargs)
        if self.governed:
            passing = _egress.sending(engine, self._egress, awaiting=self._awaiting, everywhere=True)
            # There by us, who are here once more.
            bare = plain.__wrapped__ if isinstance(plain, _Wrapper) else plain
            send = functools.partial(_passed, passing, bare.__get__(self._owner), self._owner)
        if self.tracked:
            send = _tracking.told(send, self._egress, self._owner, awaiting=self._awaiting)
        return send(*args, **kwargs)


def _passed(passing: Any, bare: Any, owner: Any, *args: Any, **kwargs: Any) -> Any:
    return passing(bare, owner, args, kwargs)


def _sendings(by: str, client: Any) -> Iterator[_Sending]:
    """Put around the functions of a client through which requests leave, where that has not been done."""
    places = list(_places(client))
    if not places:
        kind = f"{type(client).__module__}.{type(client).__qualname__}"
        raise ConfigError(f"{by} takes a client of {', '.join(LIBRARIES)}, not {kind}")
    for owner, name, egress in places:
        sending = vars(owner).get(name)
        if not isinstance(sending, _Sending):
            sending = _Sending(owner, name, egress)
            # aiohttp warns of attributes that it does not know.
            object.__setattr__(owner, name, sending)
        yield sending


def _places(client: Any) -> Iterator[tuple[Any, str, Egress]]:
    """Find the functions of a client through which requests leave."""
    parts = [client, *filter(None, [getattr(client, "connector", None)])]
    wraps = [wrap for name in LIBRARIES for wrap in _registry.load(name).wraps if wrap.module in sys.modules]
    for wrap, part in itertools.product(wraps, parts):
        kind, _, name = wrap.path.partition(".")
        if wrap.egress is not None and isinstance(part, getattr(sys.modules[wrap.module], kind)):
            # The pools of a manager come and go; every hop comes through the manager, too.
            yield part, name, replace(wrap.egress, hop=wrap.egress.hop or kind == "PoolManager")
