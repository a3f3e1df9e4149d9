"""The measuring half of a benchmark's process: it obeys orders from standard input, a line of JSON each.

Rules: every contender is measured by this code, in a process of its own kind, so it imports the standard library
alone. An actor is the least that differs between contenders. Connections are opened and used before a round, the heap
is collected before it, and the collector stays on during it, as it is in the program that pays for it. Times that
leave the process are of the monotonic clock, which the processes of a machine share.
"""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import gc
import io
import json
import pstats
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

TICK_S = 0.001
PROFILE_ROWS = 25
Order = Mapping[str, Any]


class Actor(Protocol):
    """A contender, for callers in an event loop. A blocking one has `fresh` and `replay` as plain functions."""

    def fresh(self, tool: str) -> Awaitable[object]:
        """Carry out a call that nobody has seen."""
        ...

    def replay(self, tool: str) -> Awaitable[object]:
        """Ask for a call that has succeeded."""
        ...

    def own(self, name: str, seconds: float) -> Awaitable[object]:
        """Carry out the call of this name, which takes so long."""
        ...

    def wait(self, name: str) -> Awaitable[object]:
        """Get the result of the call of this name, which somebody else carries out."""
        ...


def blocking_sequence(actor: Any, order: Order) -> dict[str, Any]:
    """One call after the other, without an event loop."""
    call, tool, times = getattr(actor, order["call"]), order["tool"], []
    for _ in range(order["calls"]):
        begun = time.perf_counter()
        call(tool)
        times.append(time.perf_counter() - begun)
    return {"times": times}


async def sequence(actor: Actor, order: Order) -> dict[str, Any]:
    """One call after the other."""
    call, tool, times = getattr(actor, order["call"]), order["tool"], []
    for _ in range(order["calls"]):
        begun = time.perf_counter()
        await call(tool)
        times.append(time.perf_counter() - begun)
    return {"times": times}


async def crowd(actor: Actor, order: Order) -> dict[str, Any]:
    """Tasks that share the calls; none waits for another."""
    call, tool, tasks = getattr(actor, order["call"]), order["tool"], order["tasks"]
    each = max(order["calls"] // tasks, 1)

    async def worker() -> None:
        for _ in range(each):
            await call(tool)

    begun = time.monotonic()
    await asyncio.gather(*(worker() for _ in range(tasks)))
    return {"begun": begun, "ended": time.monotonic(), "calls": each * tasks}


async def stall(actor: Actor, order: Order) -> dict[str, Any]:
    """A crowd, and how late a ticker of the same loop is."""
    late: list[float] = []

    async def tick() -> None:
        while True:
            due = time.perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            late.append(time.perf_counter() - due)

    ticker = asyncio.create_task(tick())
    counts = await crowd(actor, order)
    ticker.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ticker
    late.sort()
    return counts | {"p99": late[int(len(late) * 0.99)], "max": late[-1], "ticks": len(late)}


async def own(actor: Actor, order: Order) -> dict[str, Any]:
    """Carry out calls that others wait for; say when each was over."""

    async def one(name: str, seconds: float) -> float:
        await actor.own(name, seconds)
        return time.monotonic()

    return {"at": await asyncio.gather(*(one(*pair) for pair in order["pairs"]))}


async def wait(actor: Actor, order: Order) -> dict[str, Any]:
    """Wait for calls of others; say when each result was here."""

    async def one(name: str) -> float:
        await actor.wait(name)
        return time.monotonic()

    return {"at": await asyncio.gather(*(one(name) for name, _ in order["pairs"]))}


ACTS: dict[str, Callable[[Any, Order], Awaitable[dict[str, Any]]]] = {
    "sequence": sequence, "crowd": crowd, "stall": stall, "own": own, "wait": wait,
}  # fmt: skip


class Stage:
    """The actors of this process and the event loop they share.

    Args:
        makers: By kind: makes an actor for a DSN. A coroutine function makes one that lives in the loop.
        runner: The loop.
    """

    def __init__(self, makers: Mapping[str, Callable[[str], Any]], runner: asyncio.Runner) -> None:
        self._makers = makers
        self._runner = runner
        self._actors: dict[str, Any] = {}

    def obey(self, order: Order) -> dict[str, Any]:
        """Carry out one order and say what was measured."""
        name = order["actor"]
        if order["do"] == "open":
            made = self._makers[order["kind"]](order["dsn"])
            self._actors[name] = self._runner.run(made) if asyncio.iscoroutine(made) else made
            return {}
        actor = self._actors[name]
        if order["do"] == "close":
            closing = self._actors.pop(name).close()
            return self._runner.run(closing) or {} if asyncio.iscoroutine(closing) else {}
        if order.get("collect", True):
            gc.collect()
        profiler = cProfile.Profile() if order.get("profile") else contextlib.nullcontext()
        if order["do"] == "sequence" and not asyncio.iscoroutinefunction(actor.fresh):
            with profiler:
                reply = blocking_sequence(actor, order)
        else:
            reply = self._runner.run(_within(profiler, ACTS[order["do"]](actor, order)))
        return reply | ({"profile": _shown(profiler)} if isinstance(profiler, cProfile.Profile) else {})


async def _within(profiler: Any, act: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    with profiler:
        return await act


def _shown(profiler: cProfile.Profile) -> str:
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(PROFILE_ROWS)
    return text.getvalue()


def serve(makers: Mapping[str, Callable[[str], Any]]) -> None:
    """Obey orders until standard input ends."""
    with asyncio.Runner() as runner:
        stage = Stage(makers, runner)
        for line in sys.stdin:
            try:
                reply = stage.obey(json.loads(line))
            except Exception as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            sys.stdout.write(json.dumps(reply) + "\n")
            sys.stdout.flush()
