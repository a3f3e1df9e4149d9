"""Watch a stream without standing in its way.

Rules: the stream object the caller gets is the library's own, with its type and methods; only the iterator inside
it is replaced by one that looks at each chunk. However the stream ends, drained, broken off, closed, failed, or
never begun and forgotten, its watcher hears of it exactly once. Nothing here keeps a dropped stream alive.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

_INNER = "_iterator"


class Watcher(Protocol):
    """Looks at a stream; the first of its ends counts."""

    def shows(self, chunk: Any) -> bool:
        """Look at a chunk; tell whether the caller may see it."""
        ...

    def end(self, error: BaseException | None = None, *, early: bool = False) -> None:
        """Hear how the stream ended, in its thread."""
        ...

    async def end_awaiting(self, error: BaseException | None = None, *, early: bool = False) -> None:
        """Hear how the stream ended, in its event loop."""
        ...

    def dropped(self) -> None:
        """Hear that nobody has the stream any more; called wherever the interpreter noticed."""
        ...


def is_stream(result: Any) -> bool:
    """Tell whether a result is a stream that can be watched."""
    return _is_iterator(type(result)) and hasattr(result, _INNER)


def _iterates(cls: type) -> bool:
    return hasattr(cls, "__next__") or hasattr(cls, "__anext__")


# Some classes are slow to say that they lack something.
_is_iterator: Callable[[type], bool] = functools.lru_cache(maxsize=256)(_iterates)


def watch(stream: Any, watcher: Watcher) -> None:
    """Put a watcher into a stream that has none yet."""
    inner = getattr(stream, _INNER)
    if _code_of(inner) in _WATCHING:
        return
    awaiting = hasattr(inner, "__anext__")
    watching = (_awaiting if awaiting else _blocking)(inner, watcher)
    setattr(stream, _INNER, watching)
    # The library's own closing lets go of the response and leaves the iterator where it is. So does that of its helpers
    # which have a stream inside.
    response, name = getattr(stream, "response", None), "aclose" if awaiting else "close"
    if hasattr(response, name):
        setattr(response, name, (_close_awaiting if awaiting else _close)(response, watching, watcher))
    # A generator that was never begun does not run its `finally`.
    weakref.finalize(stream, watcher.dropped).atexit = False


def _code_of(iterator: Any) -> Any:
    return getattr(iterator, "gi_code", None) or getattr(iterator, "ag_code", None)


def _blocking(inner: Iterator[Any], watcher: Watcher) -> Iterator[Any]:
    shows = watcher.shows
    try:
        for chunk in inner:
            if shows(chunk):
                yield chunk
    except GeneratorExit:
        # Nobody closes this iterator by hand: it was dropped.
        watcher.dropped()
        raise
    except BaseException as error:
        watcher.end(error)
        raise
    watcher.end()


async def _awaiting(inner: AsyncIterator[Any], watcher: Watcher) -> AsyncIterator[Any]:
    shows = watcher.shows
    try:
        async for chunk in inner:
            if shows(chunk):
                yield chunk
    except GeneratorExit:
        watcher.dropped()
        raise
    except BaseException as error:
        await watcher.end_awaiting(error)
        raise
    await watcher.end_awaiting()


_WATCHING = (_blocking.__code__, _awaiting.__code__)


def _is_left(watching: Any) -> bool:
    """Tell whether an iterator waits for whoever reads it; else it was dropped or is being read, and says how it ends.

    A response is closed by its reader as well, at the end.
    """
    return watching is not None and not (
        getattr(watching, "gi_running", False) or getattr(watching, "ag_running", False)
    )


def _close(response: Any, watching: Any, watcher: Watcher) -> Callable[[], Any]:
    iterator = weakref.ref(watching)

    def closing() -> Any:
        left = _is_left(iterator())
        vars(response).pop("close", None)
        try:
            return response.close()
        finally:
            if left:
                watcher.end(early=True)

    return closing


def _close_awaiting(response: Any, watching: Any, watcher: Watcher) -> Callable[[], Any]:
    iterator = weakref.ref(watching)

    async def closing() -> Any:
        left = _is_left(iterator())
        vars(response).pop("aclose", None)
        try:
            return await response.aclose()
        finally:
            if left:
                await watcher.end_awaiting(early=True)

    return closing
