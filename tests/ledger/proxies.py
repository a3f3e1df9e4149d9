"""A network that can be spoiled: a proxy before a server that is slow, swallows what passes, or cuts.

Rules: everything is a property of the proxy and holds from the next piece of data on, in all its connections. A cut
that loses an answer is a cut for the client first: what was asked arrives, and its answer has nowhere to go.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

import psycopg

PIECE_BYTES = 65_536
Limits = Callable[[], tuple[float, float]]


class Proxy:
    """Passes connections on.

    Args:
        target: A host and port, or the path of a Unix socket.

    Attributes:
        port: Where it listens, on loopback.
        latency_s: How long each piece waits, in either direction.
        black_hole: Swallows everything, and answers nothing.
        lose_answer_to: The next request with these bytes is passed on and its connection cut.
        late: The next request with these bytes waits for the event, though its client may have gone by then.
        limits: Called for every new connection; how many bytes of requests and of answers pass before it is cut.
        cuts: How often it has cut.
    """

    def __init__(self, target: tuple[str, int] | str) -> None:
        self.latency_s = 0.0
        self.black_hole = False
        self.lose_answer_to: bytes | None = None
        self.late: tuple[bytes, threading.Event] | None = None
        self.limits: Limits | None = None
        self.cuts = 0
        self._target = target
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def before(self, dsn: str) -> str:
        """The address of this proxy, for a program that would connect by `dsn`."""
        return psycopg.conninfo.make_conninfo(dsn, host="127.0.0.1", port=self.port, sslmode="disable")

    def cut_all(self) -> None:
        """Cut every connection there is."""
        with self._lock:
            found = list(self._open)
        for side in found:
            self._cut(side)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self._listener.close()
        self._accepting.join()
        self.cut_all()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        try:
            server = self._dial()
        except OSError:
            client.close()
            return
        asked_max, answered_max = self.limits() if self.limits else (float("inf"), float("inf"))
        with self._lock:
            self._open |= {client, server}
        ends = threading.Semaphore(1)
        for one, other, count_max, ask in ((client, server, asked_max, True), (server, client, answered_max, False)):
            arguments = (one, other, count_max, ask, ends)
            threading.Thread(target=self._pass_on, args=arguments, daemon=True).start()

    def _dial(self) -> socket.socket:
        if not isinstance(self._target, str):
            return socket.create_connection(self._target)
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._target)
        return server

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, count_max: float, ask: bool, ends: threading.Semaphore
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(PIECE_BYTES):
                time.sleep(self.latency_s)
                if self.black_hole:
                    continue
                count_max -= len(data)
                if count_max < 0:
                    # What fits arrives: half a message, or a whole one whose answer is lost with the connection.
                    sink.sendall(data[: int(count_max)])
                    self.cuts += 1
                    break
                if ask and (held := self._holds(data)):
                    held.wait()
                if ask and self._loses(data):
                    self._cut(source)
                sink.sendall(data)
        self._cut(source)
        self._cut(sink)
        if not ends.acquire(blocking=False):  # the other direction has ended before
            with self._lock:
                self._open -= {source, sink}
            source.close()
            sink.close()

    def _holds(self, data: bytes) -> threading.Event | None:
        with self._lock:
            late = self.late
            if late is None or late[0] not in data:
                return None
            self.late = None
            return late[1]

    def _loses(self, data: bytes) -> bool:
        with self._lock:
            found = self.lose_answer_to is not None and self.lose_answer_to in data
            if found:
                self.lose_answer_to = None
                self.cuts += 1
        return found

    @staticmethod
    def _cut(side: socket.socket) -> None:
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)


def unix_socket(dsn: str) -> str:
    """The path of the socket that a DSN leads to."""
    given = psycopg.conninfo.conninfo_to_dict(dsn)
    return f"{given['host']}/.s.PGSQL.{given['port']}"
