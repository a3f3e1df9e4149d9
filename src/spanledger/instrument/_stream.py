"""Watch a stream without standing in its way.

Rules: the stream object the caller gets is the library's own, with its type and methods. Where it keeps its iterator as
the clients of Stainless do, that is replaced by one that looks at each chunk; any other class of streams gets a
subclass of the same name that does. A generator can only be put into another one: its request may be sent when it
begins, so the call is the one that runs here whenever it works. However the stream ends, drained, broken off, closed,
failed, or never begun and forgotten, its watcher hears of it exactly once. Nothing here keeps a dropped stream alive.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Protocol

from spanledger.instrument._open import GoingOn, goes_on

_INNER = "_iterator"
_WATCHER = "_spanledger_watcher"


class Watcher(GoingOn, Protocol):
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

    def enter(self) -> Any:
        """Make the call the one that runs here; return what `leave` takes."""
        ...

    def leave(self, entered: Any) -> None:
        """Make what was there before run here again."""
        ...

    def is_entered(self) -> bool:
        """Tell whether the call runs here: a stream that is closed in a step of its own is closed at its end."""
        ...


def is_stream(result: Any) -> bool:
    """Tell whether a result is a stream."""
    return _is_iterator(type(result))


def is_generator(result: Any) -> bool:
    """Tell whether a result is a stream that another has to stand for."""
    return isinstance(result, GeneratorType | AsyncGeneratorType)


def _iterates(cls: type) -> bool:
    return hasattr(cls, "__next__") or hasattr(cls, "__anext__")


# Some classes are slow to say that they lack something.
_is_iterator: Callable[[type], bool] = functools.lru_cache(maxsize=256)(_iterates)


def watch(stream: Any, watcher: Watcher) -> None:
    """Put a watcher into a stream that has none yet.

    Raises:
        TypeError: It is of a class that nothing can be put into.
    """
    inner = getattr(stream, _INNER, None)
    if inner is None:
        _watch_itself(stream, watcher)
        return
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
    goes_on(watcher, stream)


def generated(inner: Any, watcher: Watcher) -> Any:
    """Return a generator that stands for another, and is watched."""
    stream = (_generated_awaiting if isinstance(inner, AsyncGeneratorType) else _generated)(inner, watcher)
    goes_on(watcher, stream)
    return stream


def _generated(inner: Generator[Any, Any, Any], watcher: Watcher) -> Generator[Any, Any, Any]:
    go_on, given = inner.send, None
    try:
        while True:
            chunk = _worked(watcher, go_on, given)
            go_on, given = inner.send, None
            try:
                given = (yield chunk) if watcher.shows(chunk) else None
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001 - thrown where it was meant for
                go_on, given = inner.throw, error
    except StopIteration as end:
        watcher.end()
        return end.value
    except GeneratorExit:
        # Whoever has closed it by hand does not wait for us either.
        watcher.dropped()
        inner.close()
        raise
    except BaseException as error:
        watcher.end(error)
        raise


def _worked(watcher: Watcher, step: Callable[..., Any], *given: Any) -> Any:
    """Make a step of a generator, as a part of the call that it belongs to."""
    entered = watcher.enter()
    try:
        return step(*given)
    finally:
        watcher.leave(entered)


async def _generated_awaiting(inner: AsyncGenerator[Any, None], watcher: Watcher) -> AsyncIterator[Any]:
    async with contextlib.aclosing(inner), contextlib.aclosing(_awaiting(_Working(inner, watcher), watcher)) as chunks:
        async for chunk in chunks:
            yield chunk


class _Working:
    """Steps of an asynchronous generator, each as a part of the call that it belongs to."""

    def __init__(self, inner: Any, watcher: Watcher) -> None:
        self._inner = inner
        self._watcher = watcher

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        entered = self._watcher.enter()
        try:
            return await anext(self._inner)
        finally:
            self._watcher.leave(entered)


def _watch_itself(stream: Any, watcher: Watcher) -> None:
    if hasattr(stream, _WATCHER):
        return
    # First what may fail: a stream of the other class is lost without it.
    setattr(stream, _WATCHER, watcher)
    stream.__class__ = _watched(type(stream))
    goes_on(watcher, stream)


def _watching(cls: type) -> type:
    steps = {"__next__": _next, "__anext__": _next_awaiting, "close": _closing, "aclose": _closing}
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    watched = {name: step(getattr(cls, name)) for name, step in steps.items() if hasattr(cls, name)}
    return type(cls.__name__, (cls,), {**names, **watched})


_watched: Callable[[type], type] = functools.cache(_watching)
"""Makes a class of streams that are as those of another, and watched."""


def _next(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def watched(stream: Any) -> Any:
        watcher: Watcher = getattr(stream, _WATCHER)
        entered = watcher.enter()
        try:
            chunk = step(stream)
            while not watcher.shows(chunk):
                chunk = step(stream)
        except StopIteration:
            watcher.end()
            raise
        except BaseException as error:
            watcher.end(error)
            raise
        finally:
            watcher.leave(entered)
        return chunk

    return watched


def _next_awaiting(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def watched(stream: Any) -> Any:
        watcher: Watcher = getattr(stream, _WATCHER)
        entered = watcher.enter()
        try:
            chunk = await step(stream)
            while not watcher.shows(chunk):
                chunk = await step(stream)
        except StopAsyncIteration:
            await watcher.end_awaiting()
            raise
        except BaseException as error:
            await watcher.end_awaiting(error)
            raise
        finally:
            watcher.leave(entered)
        return chunk

    return watched


def _closing(close: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(close)
    def closing(stream: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return close(stream, *args, **kwargs)
        finally:
            watcher: Watcher = getattr(stream, _WATCHER)
            if not watcher.is_entered():
                watcher.end(early=True)

    @functools.wraps(close)
    async def closing_awaiting(stream: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await close(stream, *args, **kwargs)
        finally:
            watcher: Watcher = getattr(stream, _WATCHER)
            if not watcher.is_entered():
                await watcher.end_awaiting(early=True)

    return closing_awaiting if inspect.iscoroutinefunction(close) else closing


def _code_of(iterator: Any) -> Any:
    return getattr(iterator, "gi_code", None) or getattr(iterator, "ag_code", None)


def _blocking(inner: Iterator[Any], watcher: Watcher) -> Generator[Any, None, None]:
    shows = watcher.shows
    try:
        for chunk in inner:
            if shows(chunk):
                yield chunk
    except GeneratorExit:
        # Whoever has closed it by hand does not wait for us either.
        watcher.dropped()
        raise
    except BaseException as error:
        watcher.end(error)
        raise
    watcher.end()


async def _awaiting(inner: AsyncIterator[Any], watcher: Watcher) -> AsyncGenerator[Any, None]:
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
    """Tell whether a response is closed by somebody else than the iterator that reads it, which does so at its end.

    That, and one that was dropped, says by itself how it ends.
    """
    reader = getattr(watching, "gi_frame", None) or getattr(watching, "ag_frame", None)
    frame = inspect.currentframe() if reader else None
    while frame is not None and frame is not reader:
        frame = frame.f_back
    return watching is not None and frame is None


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
