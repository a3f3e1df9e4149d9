"""aiohttp: what its sessions send; a connector is asked for a connection once for every hop, before any byte leaves.

Rules: a session makes a new request object of its own for every hop, so that one may be changed in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanledger.core.egress import BODY_BYTES_MAX, Change, Request
from spanledger.instrument.library import EGRESS, Egress, Library, Wrap, no_call


def read(_connector: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request:
    """Read a request for which `BaseConnector.connect` is to find a connection."""
    request = args[0] if args else kwargs["req"]
    return Request(request.method, str(request.url), tuple(request.headers.items()), _body(request.body))


def asked(session: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request:
    """Read what is asked of `ClientSession._request`, without what it adds."""
    given = {**dict(zip(("method", "str_or_url"), args, strict=False)), **kwargs}
    return Request(given["method"], str(session._build_url(given["str_or_url"])))  # noqa: SLF001 - its base


def write(
    _connector: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], change: Change
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Change the request."""
    from yarl import URL

    request = args[0] if args else kwargs["req"]
    if change.body is not None:
        request.update_body_from_data(change.body)
        request.chunked = None
    if change.url is not None:
        request.url = URL(change.url, encoded=True)
    change.on(request.headers)
    return args, kwargs


def status(response: Any) -> int:
    """Return the status of a response."""
    return int(response.status)


def connected(_connection: Any) -> None:
    """A connection is no answer yet."""


def _body(body: Any) -> bytes | None:
    from aiohttp.payload import BytesPayload

    value = body._value if isinstance(body, BytesPayload) else body  # noqa: SLF001 - has no other way to be read
    plain = isinstance(value, bytes | bytearray | memoryview) and len(value) <= BODY_BYTES_MAX
    return bytes(value) if plain else None


LIBRARY = Library(
    name="aiohttp",
    requires="aiohttp>=3.10,<4",
    wraps=(
        Wrap("aiohttp.client:ClientSession._request", no_call, EGRESS, egress=Egress(status, asked=asked, hop=False)),
        Wrap(
            target="aiohttp.connector:BaseConnector.connect",
            describe=no_call,
            operation=EGRESS,
            egress=Egress(connected, read, write, whole="never", bare=True),
        ),
    ),
)
