"""What we add to requests, and servers that want none of it.

Rules: some servers refuse a request for a field that they do not know. One that is refused with a word about what we
have added is made again as its caller wrote it, once; where it is taken then, nothing is added there again. A server
may speak of all that it was sent, whatever it minds: that says nothing about what we add.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from spanledger.core.call import Call
from spanledger.telemetry import semconv

SERVERS_MAX: Final = 1024

_REFUSED: Final = (400, 422)
_ABSENT: Final = object()
# Servers and models, the last of which are remembered.
_unwilling: dict[tuple[Any, ...], None] = {}


def is_wanted(call: Call) -> bool:
    """Tell whether anything may be added to the request of a call."""
    return not _unwilling or _server(call) not in _unwilling


def changed(request: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a request we have changed, as its caller wrote it: absent, or any value."""
    before = ((name, value, asked.get(name, _ABSENT)) for name, value in request.items())
    return {name: old for name, value, old in before if old is not value}


def without(request: Mapping[str, Any], plain: Mapping[str, Any], error: Exception) -> dict[str, Any] | None:
    """Return a request as its caller wrote it, where it may have been refused for what we have added.

    Args:
        request: The request.
        plain: What we have `changed`.
        error: What the client has raised.

    Returns:
        The keyword arguments; None where the request was refused for something else.
    """
    if getattr(error, "status_code", None) not in _REFUSED or not any(name in str(error) for name in plain):
        return None
    kept = {name: value for name, value in request.items() if name not in plain}
    return kept | {name: value for name, value in plain.items() if value is not _ABSENT}


def is_refused(call: Call) -> None:
    """Add nothing more to the requests of such a call: one was refused, and then taken without what we had added."""
    if len(_unwilling) >= SERVERS_MAX:
        _unwilling.clear()
    _unwilling[_server(call)] = None


def _server(call: Call) -> tuple[Any, ...]:
    said = call.attributes.get
    return said(semconv.SERVER_ADDRESS), said(semconv.SERVER_PORT), str(call.name)
