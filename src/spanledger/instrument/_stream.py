"""Watch a stream without standing in its way.

Rules: the stream object the caller gets is the library's own, with its type and methods; only the iterator inside
it is replaced by one that looks at each chunk. However the stream ends, drained, broken off, closed, failed, or
never begun and forgotten, its watcher hears of it exactly once.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from spanledger.core.call import Usage

logger = logging.getLogger("spanledger.instrument")

_INNER = "_iterator"


class Watcher:
    """Adds up what a stream used and says once how it ended."""

    def __init__(
        self,
        fold: Callable[[Usage, Any], Usage],
        hidden: Callable[[Any], bool] | None,
        ended: Callable[[Usage, float | None, BaseException | None], None],
    ) -> None:
        self._fold = fold
        self._hidden = hidden
        self._ended: Callable[[Usage, float | None, BaseException | None], None] | None = ended
        self._usage = Usage()
        self._begun_s = time.perf_counter()
        self._first_chunk_s: float | None = None

    def shows(self, chunk: Any) -> bool:
        """Look at a chunk; tell whether the caller may see it."""
        if self._first_chunk_s is None:
            self._first_chunk_s = time.perf_counter() - self._begun_s
        try:
            self._usage = self._fold(self._usage, chunk)
            return self._hidden is None or not self._hidden(chunk)
        except Exception:
            # What we cannot read, the caller can.
            logger.warning("a chunk of a stream could not be read", exc_info=True)
            return True

    def measured(self, usage: Usage) -> None:
        """Take a usage as it is: there were no chunks."""
        self._usage = usage

    def end(self, error: BaseException | None = None) -> None:
        """Say that the stream is over; later calls are not heard."""
        ended, self._ended = self._ended, None
        if ended is None:
            return
        try:
            ended(self._usage, self._first_chunk_s, error)
        except Exception:
            logger.exception("the end of a model call could not be recorded")


def is_stream(result: Any) -> bool:
    """Tell whether a result is a stream that can be watched."""
    return hasattr(result, _INNER) and (hasattr(result, "__next__") or hasattr(result, "__anext__"))


def watch(stream: Any, watcher: Watcher) -> None:
    """Put a watcher into a stream."""
    inner = getattr(stream, _INNER)
    awaiting = hasattr(stream, "__anext__")
    setattr(stream, _INNER, (_awaiting if awaiting else _blocking)(inner, watcher))
    if hasattr(stream, "close"):
        # The library's own lets go of the response and leaves the iterator where it is.
        stream.close = (_close_awaiting if awaiting else _close)(stream.close, watcher)
    # A generator that was never begun does not run its `finally`.
    weakref.finalize(stream, watcher.end).atexit = False


def _blocking(inner: Iterator[Any], watcher: Watcher) -> Iterator[Any]:
    try:
        for chunk in inner:
            if watcher.shows(chunk):
                yield chunk
    except GeneratorExit:
        watcher.end()
        raise
    except BaseException as error:
        watcher.end(error)
        raise
    watcher.end()


async def _awaiting(inner: AsyncIterator[Any], watcher: Watcher) -> AsyncIterator[Any]:
    try:
        async for chunk in inner:
            if watcher.shows(chunk):
                yield chunk
    except GeneratorExit:
        watcher.end()
        raise
    except BaseException as error:
        watcher.end(error)
        raise
    watcher.end()


def _close(close: Callable[[], Any], watcher: Watcher) -> Callable[[], Any]:
    def closing() -> Any:
        try:
            return close()
        finally:
            watcher.end()

    return closing


def _close_awaiting(close: Callable[[], Any], watcher: Watcher) -> Callable[[], Any]:
    async def closing() -> Any:
        try:
            return await close()
        finally:
            watcher.end()

    return closing
