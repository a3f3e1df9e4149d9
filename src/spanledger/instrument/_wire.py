"""The wire of a connector: one request, with the credential on it, and what comes back without it.

Rules: the connection itself puts the credential on the wire, below every client and whatever watches one. It is masked
in what comes back, and what is raised does not hold it: an error loses its traceback, whose frames know what was sent,
and one that repeats what was sent is replaced. A redirect is an answer and is not followed, so the credential goes to
no other origin. A request has a connection of its own: none has gone stale, which would leave it unknown whether it
arrived. How long it takes to be connected and answered, and how large the answer is, is bounded as a whole, however it
drips.
"""

from __future__ import annotations

import functools
import http.client
import io
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from spanledger.core.connectors import Answer, Connector, Hidden, is_plain
from spanledger.core.egress import Request
from spanledger.core.outcomes import links, was_never_sent
from spanledger.errors import ConfigError, SpanledgerError
from spanledger.instrument.governing import governed_client

BYTES_MAX: Final = 16 * 1024 * 1024
_PIECE_BYTES: Final = 64 * 1024


def answered(door: Connector, request: Request) -> Answer:
    """Send a request with the credential of a connector, and read what it is answered.

    Raises:
        ConfigError: There is no credential.
        Exception: What went wrong, without it.
    """
    hidden: Hidden | None = None
    try:
        secret = credential_of(door)
        hidden = Hidden(secret)
        return _answered(door, request, secret, hidden)
    except Exception as error:  # noqa: BLE001 - raised again
        failed = _bare(error, hidden)
    finally:
        secret = ""
    # Not where the other one is handled, which would go along.
    raise failed


def credential_of(door: Connector) -> str:
    """Read a credential; what is wrong with it is said without it."""
    said: object = None
    if door.credential is not None:
        said = door.credential()
    elif door.credential_env is not None:
        said = os.environ.get(door.credential_env)
    elif door.credential_file is not None:
        try:
            said = Path(door.credential_file).read_text("utf-8").strip()
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f"connector {door.name!r}: its credential cannot be read: {type(error).__name__}"
            ) from None
    if not isinstance(said, str) or not is_plain(said) or not said.strip():
        raise ConfigError(f"connector {door.name!r}: its credential is missing, or is no text of plain characters")
    return said


def _answered(door: Connector, request: Request, secret: str, hidden: Hidden) -> Answer:
    import urllib3

    base = urlsplit(door.base_url)
    kind = urllib3.HTTPSConnectionPool if base.scheme == "https" else urllib3.HTTPConnectionPool
    until = time.monotonic() + door.timeout_s
    pool: Any = kind(str(base.hostname), base.port, timeout=door.timeout_s)
    pool.ConnectionCls = _carrying(pool.ConnectionCls, door.credential_header(secret), until)
    target = "/" + request.url.split("/", 3)[3]
    sent: dict[str, Any] = {"body": request.body or None, "headers": dict(request.headers)}
    with governed_client(pool):
        got = pool.urlopen(request.method, target, **sent, retries=False, redirect=False, preload_content=False)
        try:
            content = _read(got)
        finally:
            got.close()
    shown = {hidden.masked(name).lower(): hidden.masked(value) for name, value in got.headers.items()}
    shown.pop("set-cookie", None)
    # Bytes that are no text come back as they were.
    return Answer(got.status, shown, hidden.masked(content.decode("latin-1")).encode("latin-1"))


def _read(got: Any) -> bytes:
    from urllib3.exceptions import ProtocolError

    content = bytearray()
    for piece in got.stream(_PIECE_BYTES, decode_content=True):
        content += piece
        if len(content) > BYTES_MAX:
            raise ProtocolError(f"the answer is larger than {BYTES_MAX} bytes")
    return bytes(content)


def _bare(error: Exception, hidden: Hidden | None) -> Exception:
    """Return an error without tracebacks; another of its kind, where what it says holds the credential."""
    for link in links(error):
        link.__traceback__ = None
    if hidden is None or isinstance(error, SpanledgerError) or not any(_tells(link, hidden) for link in links(error)):
        return error
    from urllib3.exceptions import ProtocolError

    kind = ConnectionRefusedError if was_never_sent(error) else ProtocolError
    return kind(f"{type(error).__name__}; what it says is not shown, because it repeats the credential")


def _tells(error: BaseException, hidden: Hidden) -> bool:
    try:
        return hidden.is_in(f"{error} {error!r} {error.args!r} {vars(error)!r}")
    except Exception:  # noqa: BLE001 - nobody knows what it would say
        return True


def _carrying(kind: Any, header: tuple[str, str], until: float) -> Callable[..., Any]:
    """Make connections that send a header that nobody has told them to, print nothing of what they send, and end."""

    def connection(*args: Any, **kwargs: Any) -> Any:
        made = kind(*args, **kwargs)
        made.set_debuglevel(0)
        made.response_class = functools.partial(_Response, until=until)
        plain, connect = made.endheaders, made.connect

        def connect_in_time() -> None:
            made.timeout = _left(until)
            _connect(made, connect, until)
            made.sock.settimeout(_left(until))

        def endheaders(*args: Any, **kwargs: Any) -> Any:
            made.putheader(*header)
            return plain(*args, **kwargs)

        made.endheaders, made.connect = endheaders, connect_in_time
        return made

    return connection


def _connect(made: Any, connect: Callable[[], None], until: float) -> None:
    """Connect, in a thread: a look-up of the name takes as long as the resolver likes, and there may be many addresses.

    Raises:
        ConnectTimeoutError: It is not connected in time; nothing was sent.
    """
    from urllib3.exceptions import ConnectTimeoutError

    connected: Future[None] = Future()
    threading.Thread(target=_settle, args=(connected, connect), name="spanledger-connect", daemon=True).start()
    if not wait([connected], _left(until)).done:
        connected.add_done_callback(lambda _: made.close())
        raise ConnectTimeoutError(made, f"connection to {made.host} timed out")
    connected.result()


def _settle(future: Future[None], work: Callable[[], None]) -> None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - raised where it is waited for
        future.set_exception(error)
    else:
        future.set_result(None)


def _left(until: float) -> float:
    left_s = until - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("timed out")
    return left_s


class _Response(http.client.HTTPResponse):
    """An answer that has to be there in time."""

    def __init__(self, sock: Any, *args: Any, until: float, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_InTime(sock, until))

    def begin(self) -> None:
        """Read its head; what cannot be read of that is dropped, where it would be logged as it is."""
        super().begin()
        self.msg.defects = []
        self.msg.set_payload("")


class _InTime(io.RawIOBase):
    """What a socket receives until a time, of `time.monotonic`."""

    def __init__(self, sock: Any, until: float) -> None:
        self._sock = sock
        self._until = until
        self._plain = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        """It is read, and not written."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Receive what is there."""
        self._sock.settimeout(_left(self._until))
        return self._plain.readinto(buffer)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Be done with the socket."""
        if not self.closed:
            self._plain.close()
        super().close()
