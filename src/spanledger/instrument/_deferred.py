"""Requests that are prepared first and made when a `with` block is entered.

Rules: what was asked for is kept on the object that will make the request, where the wrap of its `__enter__` finds it.
Nobody else sees it prepared, and makes a span of it that our own would repeat.
A request that is refused there leaves no coroutine behind that nobody has awaited.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Awaitable
from typing import Any

from spanledger.errors import SpanledgerError
from spanledger.instrument import _bounds
from spanledger.telemetry import model_spans

_KEPT = "spanledger_request"


def deferring(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Keep what is asked for on what will ask."""
    request = _bounds.kept(kwargs)
    with model_spans.unseen():
        made = wrapped(*args, **request)
    with contextlib.suppress(AttributeError):
        setattr(made, _KEPT, (instance, request))
    return made


def asked_by(instance: Any) -> tuple[Any, dict[str, Any]] | None:
    """Return whose request an object makes, and its keyword arguments; None for what makes no deferred one."""
    found: tuple[Any, dict[str, Any]] | None = getattr(instance, "__dict__", {}).get(_KEPT)
    return found


async def entering(instance: Any, asking: Awaitable[Any]) -> Any:
    """Make the request that `instance` holds."""
    try:
        return await asking
    except SpanledgerError:
        for value in vars(instance).values():
            if inspect.iscoroutine(value):
                value.close()
        raise
