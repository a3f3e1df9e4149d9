"""Tools that are asynchronous generators: the last that they yield is their result.

Rules: one call, as of any tool. What is yielded before the result passes through as it comes; a replay has the result
alone. The call lives in a context of its own, so that whoever reads from it is not inside it. Who stops reading has
cancelled it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import types
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class _Step:
    """What a call has come to: something to pass on, or its end."""

    value: Any
    last: bool = False


_NOTHING = _Step(None)


async def last_of(generator: AsyncGenerator[Any, None]) -> Any:
    """Pass on what a generator yields, and return the last; to be awaited in a call that `passing` makes."""
    held: list[Any] = []
    async with contextlib.aclosing(generator) as items:
        async for item in items:
            if held:
                await _passed_on(_Step(held.pop()))
            held.append(item)
    if not held:
        await _passed_on(_NOTHING)
    return held.pop() if held else None


async def passing(begin: Callable[[], Coroutine[Any, Any, Any]]) -> AsyncIterator[Any]:
    """Begin a call; yield what is passed on inside it, and then what it returns."""
    context, call = contextvars.copy_context(), begin()
    step, empty = await _next(context, call.send, call), False
    while not step.last:
        empty = empty or step is _NOTHING
        try:
            if not empty:
                yield step.value
        except BaseException:
            with contextlib.suppress(asyncio.CancelledError):
                await _next(context, lambda _none: call.throw(asyncio.CancelledError()), call)
            raise
        step = await _next(context, call.send, call)
    if not empty:
        yield step.value


@types.coroutine
def _passed_on(step: _Step) -> Generator[_Step, None, None]:
    yield step


@types.coroutine
def _next(
    context: contextvars.Context, go_on: Callable[[Any], Any], call: Coroutine[Any, Any, Any]
) -> Generator[Any, Any, _Step]:
    """Let a call go on until it passes something on or ends; what it waits for meanwhile is waited for as ever."""
    given: Any = None
    while True:
        try:
            waited_for = context.run(go_on, given)
        except StopIteration as end:
            return _Step(end.value, last=True)
        if isinstance(waited_for, _Step):
            return waited_for
        try:
            go_on, given = call.send, (yield waited_for)
        except BaseException as error:  # noqa: BLE001 - thrown where it is waited for
            go_on, given = call.throw, error
