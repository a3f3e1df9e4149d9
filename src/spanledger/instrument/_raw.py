"""Raw responses of the clients that Stainless generates: OpenAI's, Anthropic's and others.

Rules: `with_raw_response` gives an object whose `parse` is cached, so the caller's own call of it gives the object we
have looked at. `with_streaming_response` leaves reading to the caller: what is asked for stays as it is, and we look
at what the caller parses, or at what has been read when the response is closed, and never read by ourselves.
"""

from __future__ import annotations

import functools
import inspect
import json
import weakref
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from spanledger.instrument._open import goes_on
from spanledger.instrument._proxies import PROXY
from spanledger.instrument._stream import Watcher

# By this header the client tells its own methods apart; "stream" is `with_streaming_response`.
_HEADER = "X-Stainless-Raw-Response"
_UNREAD = "stream"


def is_left_unread(request: Mapping[str, Any]) -> bool:
    """Tell whether a request is one whose answer the caller reads."""
    return (request.get("extra_headers") or {}).get(_HEADER) == _UNREAD


def parsed(result: Any) -> Any:
    """Return what is inside a raw response, or an awaitable of it; anything else as it is."""
    if not _is_raw(type(result)) or is_unread(result):
        return result
    return result.parse()


def is_unread(result: Any) -> bool:
    """Tell whether a result is a response that the caller reads."""
    return _is_raw(type(result)) and result.http_request.headers.get(_HEADER) == _UNREAD


def _has_request(cls: type) -> bool:
    return hasattr(cls, "http_request") and hasattr(cls, "parse")


def _has_all(cls: type) -> bool:
    return not (hasattr(cls, "__next__") or hasattr(cls, "__anext__") or _is_raw(cls) or issubclass(cls, PROXY))


# Some classes are slow to say that they lack something, and this is asked for every call.
_is_raw: Callable[[type], bool] = functools.lru_cache(maxsize=256)(_has_request)
is_plain: Callable[[type], bool] = functools.lru_cache(maxsize=256)(_has_all)
"""Tells of a class of results whether they are answers: no streams, no raw responses, and nothing around one."""


def watch_unread(response: Any, watcher: Watcher, look: Callable[[Any], None]) -> None:
    """Look at what the caller reads of a response.

    Args:
        response: The response.
        watcher: Hears how it ended.
        look: Looks at an answer, or at a stream, which then says itself when it is over; it raises nothing.
    """
    cls, alive = type(response), weakref.ref(response)
    if hasattr(cls, "__aenter__") or _is_coroutine_method(cls, "parse"):
        response.parse, response.close = _awaiting(cls, alive, watcher, look)
    else:
        response.parse, response.close = _blocking(cls, alive, watcher, look)
    goes_on(watcher, response)


def _blocking(
    cls: type[Any], alive: Callable[[], Any], watcher: Watcher, look: Callable[[Any], None]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def parse(**options: Any) -> Any:
        found = cls.parse(alive(), **options)
        look(found)
        return found

    def close() -> Any:
        response = alive()
        try:
            return cls.close(response)
        finally:
            _look_at_read(response, look)
            watcher.end(early=True)

    return parse, close


def _awaiting(
    cls: type[Any], alive: Callable[[], Any], watcher: Watcher, look: Callable[[Any], None]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    async def parse(**options: Any) -> Any:
        found = await cls.parse(alive(), **options)
        look(found)
        return found

    async def close() -> Any:
        response = alive()
        try:
            return await cls.close(response)
        finally:
            _look_at_read(response, look)
            await watcher.end_awaiting(early=True)

    return parse, close


def _is_coroutine_method(cls: type[Any], name: str) -> bool:
    return inspect.iscoroutinefunction(getattr(cls, name, None))


def _look_at_read(response: Any, look: Callable[[Any], None]) -> None:
    """Look at a body that has been read whole: as JSON, as text or in bytes."""
    try:
        body = json.loads(response.http_response.content, object_hook=lambda found: _Fields(**found))
    except Exception:  # noqa: BLE001 - not read, or read in pieces, or no JSON: nothing is known
        return
    look(body)


class _Fields(SimpleNamespace):
    """An object of JSON with its fields as attributes; those that are not there are None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)
