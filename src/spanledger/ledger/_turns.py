"""Many calls that set out in one round of an event loop, and whatever else wants to run in it.

Rules: so many set out in a round, and the others in those that follow, in their order: what is done before the first
question, which is to identify and to price a call, takes some 50 µs, and a thousand tasks that are started together
would hold up the loop for as many times that. A lone call waits for nobody. Nothing here keeps a loop alive.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from typing import Final

IN_ROUND_MAX: Final = 32


class _Turns:
    """Of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self._gone = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None] | None:
        if not self._gone and not self._waiting:
            loop.call_soon(self._next_round)
        if self._gone < IN_ROUND_MAX and not self._waiting:
            self._gone += 1
            return None
        turn = loop.create_future()
        self._waiting.append(turn)
        return turn

    def _next_round(self) -> None:
        self._gone = 0
        while self._waiting and self._gone < IN_ROUND_MAX:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._gone += 1
        if self._gone:
            asyncio.get_running_loop().call_soon(self._next_round)


class _Here(threading.local):
    turns: _Turns | None = None


_here = _Here()


def turn() -> asyncio.Future[None] | None:
    """Set out in the running loop: at once where it returns None, else when what it returns is done."""
    loop, turns = asyncio.get_running_loop(), _here.turns
    if turns is None or turns.loop() is not loop:
        turns = _here.turns = _Turns(loop)
    return turns.take(loop)
