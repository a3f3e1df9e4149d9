"""The one connection of a process that listens, and how its thread sleeps.

Rules: the thread sleeps until a key is heard, somebody nudges it, the connection is lost, or it is time. What cannot
listen is said so at once and tried again later, after a pause that grows; nothing here raises.

A pooler in transaction mode takes a LISTEN and never delivers. Worse, the server process that took it goes on
listening, for nobody, and the pooler complains of every notification. So behind a pooler (it hands out process ids of
its own) nothing listens before two sessions have compared their server processes: where they share one, or one of
them is moved, there is no session to listen in. And where there seems to be one, only a notification from the other
session proves it: its own comes back through any pooler.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import selectors
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.pq import ConnStatus

logger = logging.getLogger("spanledger.ledger")

CHANNEL = "spanledger"
RETRY_S_MIN = 0.1
RETRY_S_MAX = 5.0
# No session behind this address; poolers are reconfigured seldom.
POOLED_RETRY_S = 300.0
PROOF_S_MAX = 0.5
PROOF_ROUNDS = 3
JITTER = 0.25
# A connection that nobody writes to notices a vanished peer by these only; for whoever makes the connection string.
KEEPALIVES = {"keepalives_idle": "5", "keepalives_interval": "2", "keepalives_count": "3"}
_BACKEND = "select pg_backend_pid()"

Connect = Callable[[], psycopg.Connection[Any]]
Heard = Callable[[list[str]], object]


class Retry:
    """When to try to listen again; outlives the lines of a process."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self._pause_s = RETRY_S_MIN

    def later(self, pause_s: float | None = None) -> None:
        """Try again after a pause, each longer than the one before."""
        self.at_s = time.monotonic() + jittered(pause_s or self._pause_s)
        self._pause_s = min(self._pause_s * 2, RETRY_S_MAX)

    def reset(self) -> None:
        """Begin with short pauses again."""
        self._pause_s = RETRY_S_MIN


class Line:
    """A connection that listens, of one run of the thread; its bell may be rung from any thread.

    Args:
        connect: Opens a connection; may raise.
        heard: Called with the payloads of notifications.
        retry: When to try to listen.

    Attributes:
        up: It listens.
        lives: How often it has begun to.
        decided: Whether it can has been found out.
        wakes_s: Until when its thread sleeps.
    """

    def __init__(self, connect: Connect, heard: Heard, retry: Retry) -> None:
        self.up = False
        self.lives = 0
        self.decided = False
        self.wakes_s = 0.0
        self._connect = connect
        self._heard = heard
        self._retry = retry
        self._since_s = 0.0
        self._file = -1
        self._connection: psycopg.Connection[Any] | None = None
        self._selector = selectors.DefaultSelector()
        self._bell, self._hammer = socket.socketpair()
        self._bell.setblocking(False)
        self._hammer.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)

    def nudge(self) -> None:
        """Wake the thread."""
        # Full: it will wake anyway. Closed: it has ended.
        with contextlib.suppress(OSError):
            self._hammer.send(b"!")

    def open(self) -> None:
        """Listen, or find out that this cannot be, and try again later."""
        connection = None
        try:
            connection = self._connect()
            connection.prepare_threshold = None
            if self._listens(connection):
                self._file = connection.fileno()
                self._selector.register(self._file, selectors.EVENT_READ)
                self._connection, connection = connection, None
                self.up, self._since_s = True, time.monotonic()
                self.lives += 1
            else:
                logger.info("no session to LISTEN in behind this pooler: waiters look again at intervals")
                self._retry.later(POOLED_RETRY_S)
        except Exception as error:  # noqa: BLE001 - waiters look at intervals meanwhile
            logger.info("no LISTEN, waiters look again at intervals: %s", str(error).strip() or type(error).__name__)
            self._retry.later()
        finally:
            if connection is not None:
                connection.close()

    def hear(self) -> None:
        """Sleep until `wakes_s`, a nudge, or the loss of the connection; pass on what is heard meanwhile."""
        up = self.up
        while True:
            left_s = max(self.wakes_s - time.monotonic(), 0.0)
            files = [key.fileobj for key, _ in self._selector.select(None if math.isinf(left_s) else left_s)]
            if any(file is not self._bell for file in files):
                self._receive()
            if self._bell in files:
                with contextlib.suppress(BlockingIOError):
                    self._bell.recv(4096)
                return
            if self.up != up or time.monotonic() >= self.wakes_s:
                return

    def close(self) -> None:
        """Close everything; by the thread itself."""
        self.up = False
        if self._connection is not None:
            self._connection.close()
        self._selector.close()
        self._bell.close()
        self._hammer.close()

    def _receive(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            self._heard(_received(connection))
        except psycopg.Error as error:
            self._lose(connection, error)

    def _lose(self, connection: psycopg.Connection[Any], error: psycopg.Error) -> None:
        logger.info("the connection that listens was lost, waiters look again at intervals: %s", str(error).strip())
        self.up, self._connection = False, None
        if time.monotonic() - self._since_s > RETRY_S_MAX:
            self._retry.reset()
        self._retry.later()
        # A lost connection may not know its number any more.
        self._selector.unregister(self._file)
        connection.close()

    def _listens(self, connection: psycopg.Connection[Any]) -> bool:
        if _backend(connection) == connection.info.backend_pid:
            connection.execute(f"listen {CHANNEL}")
            return True
        with contextlib.closing(self._connect()) as other:
            other.prepare_threshold = None
            return _has_session(connection, other) and _hears(connection, other)


def jittered(pause_s: float) -> float:
    """Shorten a pause at random, so that many processes do not ask at the same moment."""
    return pause_s * (1 - JITTER * random.random())  # noqa: S311 - no secret


def _backend(connection: psycopg.Connection[Any]) -> int:
    (pid,) = connection.execute(_BACKEND).fetchone() or (0,)
    return int(pid)


def _has_session(connection: psycopg.Connection[Any], other: psycopg.Connection[Any]) -> bool:
    """Tell whether a connection seems to have a server process of its own."""
    own, others = set(), set()
    for _ in range(PROOF_ROUNDS):
        own.add(_backend(connection))
        others.add(_backend(other))
    return len(own) == 1 and not own & others


def _hears(connection: psycopg.Connection[Any], other: psycopg.Connection[Any]) -> bool:
    """Listen, and tell whether what another session says arrives."""
    proof = uuid.uuid4().hex
    connection.execute(f"listen {CHANNEL}")
    other.execute("select pg_notify(%s, %s)", (CHANNEL, proof))
    # Nothing is asked meanwhile: the answer would bring along what is said in any session.
    end_s = time.monotonic() + PROOF_S_MAX
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        while (left_s := end_s - time.monotonic()) > 0:
            selector.select(left_s)
            if proof in _received(connection):
                return True
    connection.execute(f"unlisten {CHANNEL}")
    return False


def _received(connection: psycopg.Connection[Any]) -> list[str]:
    """Take what has arrived on an idle connection.

    Raises:
        psycopg.Error: It is lost.
    """
    connection.pgconn.consume_input()
    payloads = []
    while note := connection.pgconn.notifies():
        payloads.append(note.extra.decode(errors="replace"))
    if not payloads and connection.pgconn.status is not ConnStatus.OK:
        raise psycopg.OperationalError("the server has closed it")
    return payloads
