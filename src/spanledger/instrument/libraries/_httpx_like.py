"""What httpx and httpx2 have in common: both send with clients of the same shape.

Rules: a changed request is another object: what the program holds, it may send again elsewhere. `send` sees a request
once, before anybody adds credentials to it; `_send_single_request` sees what leaves, redirected requests too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanledger.core.egress import BODY_BYTES_MAX, Change, Request
from spanledger.instrument.library import EGRESS, Egress, Library, Wrap, no_call


def read(_client: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request:
    """Read a request of `Client.send`."""
    request = args[0] if args else kwargs["request"]
    target = request.extensions.get("target")
    return Request(
        request.method,
        str(request.url),
        tuple(request.headers.multi_items()),
        _body(request),
        () if target is None else (target.decode() if isinstance(target, bytes) else str(target),),
    )


def write(
    _client: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], change: Change
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Make the arguments that send a changed request."""
    given = args[0] if args else kwargs["request"]
    headers = given.headers.copy()
    change.on(headers)
    content = {"stream": given.stream} if change.body is None else {"content": change.body}
    request = type(given)(
        given.method, change.url or given.url, headers=headers, extensions=given.extensions, **content
    )
    if change.body is None and hasattr(given, "_content"):
        request._content = given._content  # noqa: SLF001 - as `read()` leaves it
    return (request, *args[1:]), {name: value for name, value in kwargs.items() if name != "request"}


def status(response: Any) -> int:
    """Return the status of a response."""
    return int(response.status_code)


def _body(request: Any) -> bytes | None:
    # Redirected requests have the stream of the first one alone.
    content = getattr(request, "_content", getattr(request.stream, "_stream", None))
    return content if isinstance(content, bytes) and len(content) <= BODY_BYTES_MAX else None


def library(name: str, requires: str) -> Library:
    """Make the library of one of them."""
    whole = Egress(status, read, write, hop=False)
    hop = Egress(status, read, write, whole="never")
    targets = (("send", whole), ("_send_single_request", hop))
    wraps = tuple(
        Wrap(f"{name}._client:{client}.{method}", describe=no_call, operation=EGRESS, egress=egress)
        for client in ("Client", "AsyncClient")
        for method, egress in targets
    )
    return Library(name, requires, wraps)
