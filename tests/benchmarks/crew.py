"""The processes of a benchmark, as the one that gives the orders sees them.

Rules: all processes of a round are started, connected and warm before it. Processes that are measured together are
told one after the other and heard afterwards; what counts is from the first that began to the last that ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg

ROOT = Path(__file__).parents[2]
ACTORS = "tests.benchmarks.actors"
PEER = "tests.benchmarks.peer"


class Hand:
    """A process that obeys.

    Args:
        module: Its program.
        python: Its interpreter.
    """

    def __init__(self, module: str = ACTORS, python: str = sys.executable) -> None:
        # A peer's environment sees this project's root and nothing else of ours.
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")] if module == ACTORS else [str(ROOT)])
        self._process = subprocess.Popen(
            [python, "-m", module], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip

    def tell(self, do: str, actor: str, **order: Any) -> None:
        """Give an order."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": do, "actor": actor} | order) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Hear what came of it."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        reply = json.loads(line) if line else {"error": "the process has ended"}
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply

    def ask(self, do: str, actor: str, **order: Any) -> dict[str, Any]:
        """Give an order and hear what came of it."""
        self.tell(do, actor, **order)
        return self.hear()

    def end(self) -> None:
        """Let the process end."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def hands(count: int, dsn: str, kinds: Sequence[str], python: str | None = None) -> Iterator[list[Hand]]:
    """Start processes that have these kinds of actors; with an interpreter, peers."""
    crew = [Hand(PEER, python) if python else Hand() for _ in range(count)]
    try:
        for hand in crew:
            for kind in kinds:
                hand.ask("open", kind, kind=kind, dsn=dsn)
        yield crew
    finally:
        for hand in crew:
            hand.end()


def together(crew: Sequence[Hand], actor: str, **order: Any) -> float:
    """Calls per second of processes that work at the same time."""
    for hand in crew:
        hand.tell("crowd", actor, **order)
    replies = [hand.hear() for hand in crew]
    seconds = max(reply["ended"] for reply in replies) - min(reply["begun"] for reply in replies)
    return float(sum(reply["calls"] for reply in replies) / seconds)


@contextlib.contextmanager
def far_away(dsn: str, delay_ms: float) -> Iterator[str]:
    """Return the DSN of the same server, so many milliseconds away."""
    with psycopg.connect(dsn) as connection:
        host, port = connection.info.host, connection.info.port
    socket = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else f"{host}:{port}"
    proxy = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.proxy", socket, str(delay_ms)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert proxy.stdin
    assert proxy.stdout
    try:
        through = proxy.stdout.readline().strip()
        yield psycopg.conninfo.make_conninfo(
            dsn, host="127.0.0.1", hostaddr="127.0.0.1", port=through, sslmode="disable"
        )
    finally:
        proxy.stdin.close()
        proxy.wait()
