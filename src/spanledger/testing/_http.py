"""One small HTTP/1.1 server on loopback, shared by everything in this package.

Rules: a subclass turns a `Request` into a `Reply` and knows no socket. Each connection has a daemon thread,
so an answer may block for as long as it likes; `stop()` hangs up on everybody and waits for no answer.
A body has a known length, or is streamed in chunks. A client that goes away is not an error: here that
is often the very thing under test.
"""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import parse_qsl, urlsplit

BODY_BYTES_MAX = 64 * 1024 * 1024
# How long `stop()` may take while nobody is connected.
_STOP_POLL_S = 0.02

_logger = logging.getLogger(__name__)


class BadRequestError(Exception):
    """The client's mistake, told in words for the client."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, completely read. Header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json_object(self) -> dict[str, Any]:
        """Parse the body.

        Raises:
            BadRequestError: The body is no JSON object.
        """
        try:
            value = json.loads(self.body)
        except ValueError as error:
            raise BadRequestError(f"the body is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise BadRequestError("the body must be a JSON object")
        return value


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. A body that is not `bytes` is streamed, one chunk an item."""

    status: int
    body: bytes | Iterable[bytes] = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def json_reply(status: int, value: Any) -> Reply:
    """Answer with `value` as JSON."""
    return Reply(status, json.dumps(value, ensure_ascii=False).encode())


class LoopbackServer(ABC):
    """Base of the servers: start, stop, address. Use it as a context manager."""

    _listener: _Listener | None = None

    @abstractmethod
    def answer(self, request: Request) -> Reply:
        """Answer one request; called in the connection's thread, several at a time."""

    @property
    def url(self) -> str:
        """The base URL, without a slash at the end.

        Raises:
            RuntimeError: The server is not running.
        """
        if self._listener is None:
            raise RuntimeError(f"{type(self).__name__} is not running: use it in a `with` block")
        return f"http://127.0.0.1:{self._listener.server_address[1]}"

    def start(self) -> Self:
        """Bind to a free port and serve in the background; does nothing when already running."""
        if self._listener is None:
            self._listener = _Listener(self.answer)
            threading.Thread(
                target=self._listener.serve_forever,
                args=(_STOP_POLL_S,),
                name=f"{type(self).__name__} {self.url}",
                daemon=True,
            ).start()
        return self

    def stop(self) -> None:
        """Close the port and hang up on every client, also in the middle of an answer."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown()
            listener.server_close()
            listener.hang_up()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


# Not http.server.HTTPServer: it asks the name service for the name of 127.0.0.1, which can take seconds.
class _Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Callable[[Request], Reply]) -> None:
        self.answer = answer
        self._lock = threading.Lock()
        self._connected: set[Any] = set()
        super().__init__(("127.0.0.1", 0), _Connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connected.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connected.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Wake the threads that wait for a next request; each closes its own socket."""
        with self._lock:
            for connection in self._connected:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base's
        # The library calls this where the exception is handled; the linter cannot see that.
        _logger.debug("connection from %s ended early", client_address, exc_info=True)  # noqa: LOG014


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "spanledger-testing"
    sys_version = ""
    # Head and body go out in two writes; without this a client waits for its own delayed acknowledgement.
    disable_nagle_algorithm: ClassVar[bool] = True
    server: _Listener

    def do_GET(self) -> None:
        self._exchange()

    def do_POST(self) -> None:
        self._exchange()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        _logger.debug(format, *args)

    def _exchange(self) -> None:
        length_text = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length_text.isdecimal():
            self._refuse_unread(411, "send a Content-Length")
        elif int(length_text) > BODY_BYTES_MAX:
            self._refuse_unread(413, f"the body is larger than {BODY_BYTES_MAX} bytes")
        else:
            self._send(self._reply(self.rfile.read(int(length_text))))

    def _reply(self, body: bytes) -> Reply:
        address = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(parse_qsl(address.query, keep_blank_values=True))
        try:
            return self.server.answer(Request(self.command, address.path, query, headers, body))
        except Exception as error:  # noqa: BLE001 - whatever a callback raised, the client gets an answer
            return json_reply(500, {"error": {"message": f"{type(error).__name__}: {error}"}})

    def _refuse_unread(self, status: int, message: str) -> None:
        # The body still stands in the connection and must not be read as the next request.
        self.close_connection = True
        self._send(Reply(status, json.dumps({"error": {"message": message}}).encode()))

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        if isinstance(reply.body, bytes):
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)
        else:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self._send_chunks(reply.body)

    def _send_chunks(self, chunks: Iterable[bytes]) -> None:
        for chunk in chunks:
            # An empty chunk would end the body.
            if chunk:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.wfile.write(b"0\r\n\r\n")
