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
    """Put a watcher into a stream."""
    inner = getattr(stream, _INNER)
    awaiting = hasattr(inner, "__anext__")
    setattr(stream, _INNER, (_awaiting if awaiting else _blocking)(inner, watcher))
    if hasattr(stream, "close"):
        # The library's own lets go of the response and leaves the iterator where it is.
        stream.close = (_close_awaiting if awaiting else _close)(stream, watcher)
    # A generator that was never begun does not run its `finally`.
    weakref.finalize(stream, watcher.dropped).atexit = False


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


def _close(stream: Any, watcher: Watcher) -> Callable[[], Any]:
    close, alive = type(stream).close, weakref.ref(stream)

    def closing() -> Any:
        try:
            return close(alive())
        finally:
            watcher.end(early=True)

    return closing


def _close_awaiting(stream: Any, watcher: Watcher) -> Callable[[], Any]:
    close, alive = type(stream).close, weakref.ref(stream)

    async def closing() -> Any:
        try:
            return await close(alive())
        finally:
            await watcher.end_awaiting(early=True)

    return closing
