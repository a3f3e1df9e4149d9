"""requests: what its sessions send; a redirect comes through `Session.send` again, with the session's own copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanledger.core.egress import BODY_BYTES_MAX, Change, Request
from spanledger.instrument.library import EGRESS, Egress, Library, Wrap, no_call


def read(_session: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request:
    """Read a request of `Session.send`."""
    request = args[0] if args else kwargs["request"]
    return Request(request.method, request.url, tuple(_texts(request.headers)), body_of(request.body))


def write(
    _session: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], change: Change
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Make the arguments that send a changed copy."""
    request = (args[0] if args else kwargs["request"]).copy()
    change.on(request.headers)
    if change.url is not None:
        request.url = change.url
    if change.body is not None:
        request.body = change.body
    return (request, *args[1:]), {name: value for name, value in kwargs.items() if name != "request"}


def status(response: Any) -> int:
    """Return the status of a response."""
    return int(response.status_code)


def body_of(body: Any) -> bytes | None:
    """Return what is sent, where that can be read without using it up."""
    if body is None:
        return b""
    if isinstance(body, str):
        body = body.encode()
    return bytes(body) if isinstance(body, bytes | bytearray) and len(body) <= BODY_BYTES_MAX else None


def _texts(headers: Mapping[Any, Any]) -> list[tuple[str, str]]:
    pairs = ((name, value) for name, value in headers.items() if value is not None)
    return [tuple(p.decode("latin-1") if isinstance(p, bytes) else str(p) for p in pair) for pair in pairs]  # type: ignore[misc]


LIBRARY = Library(
    name="requests",
    requires="requests>=2.28,<3",
    wraps=(Wrap("requests.sessions:Session.send", no_call, EGRESS, egress=Egress(status, read, write, whole="outer")),),
)
