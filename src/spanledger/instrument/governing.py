"""`governed_client()`: one HTTP client under the egress rules, whether or not its library is instrumented.

Rules: the client stays what it is; its own functions are put around, and nothing of its class is touched. All rules
count for it, inside a guarded tool or not. What guards it is the engine of the process when it sends.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final, TypeVar

from spanledger.errors import ConfigError
from spanledger.instrument import _egress, _registry, _runtime
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
    places = list(_places(client))
    if not places:
        kind = f"{type(client).__module__}.{type(client).__qualname__}"
        raise ConfigError(f"governed_client takes a client of {', '.join(LIBRARIES)}, not {kind}")
    for owner, name, egress in places:
        if name not in vars(owner):
            # aiohttp warns of attributes that it does not know.
            object.__setattr__(owner, name, _governed(owner, name, egress))
    return client


def _places(client: Any) -> Iterator[tuple[Any, str, Egress]]:
    """Find the functions of a client through which requests leave."""
    parts = [client, *filter(None, [getattr(client, "connector", None)])]
    wraps = [wrap for name in LIBRARIES for wrap in _registry.load(name).wraps if wrap.module in sys.modules]
    for wrap, part in itertools.product(wraps, parts):
        kind, _, name = wrap.path.partition(".")
        if wrap.egress is not None and isinstance(part, getattr(sys.modules[wrap.module], kind)):
            # The pools of a manager come and go; every hop comes through the manager, too.
            yield part, name, replace(wrap.egress, hop=wrap.egress.hop or kind == "PoolManager")


def _governed(owner: Any, name: str, egress: Egress) -> Callable[..., Any]:
    plain = inspect.getattr_static(type(owner), name)
    if isinstance(plain, _Wrapper):
        plain = plain.__wrapped__  # by us, who are here once more
    original = plain.__get__(owner)
    awaiting = inspect.iscoroutinefunction(inspect.unwrap(plain))

    @functools.wraps(original)
    def send(*args: Any, **kwargs: Any) -> Any:
        engine = _runtime.engine()
        if engine is None:
            return original(*args, **kwargs)
        passing = _egress.sending(engine, egress, awaiting=awaiting, everywhere=True)
        return passing(original, owner, args, kwargs)

    return send
