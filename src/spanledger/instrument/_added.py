"""What we add to requests, and servers that want none of it.

Rules: some servers refuse a request for a field that they do not know. One that is refused for what we have added is
made again as its caller wrote it, which nobody has answered yet; nothing is added there again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from spanledger.core.call import Call
from spanledger.telemetry import semconv

SERVERS_MAX: Final = 1024

_REFUSED: Final = (400, 422)
# Servers and models, the last of which are remembered.
_unwilling: dict[tuple[Any, ...], None] = {}


def is_wanted(call: Call) -> bool:
    """Tell whether anything may be added to the request of a call."""
    return not _unwilling or _server(call) not in _unwilling


def without(request: Mapping[str, Any], plain: Mapping[str, Any], call: Call, error: Exception) -> Any:
    """Return a request as its caller wrote it, where it was refused for what we have added.

    Args:
        request: The request.
        plain: What was in it before, as far as we have changed it.
        call: The call.
        error: What the client has raised.

    Returns:
        The keyword arguments; None where the request was refused for something else.
    """
    if getattr(error, "status_code", None) not in _REFUSED or not any(name in str(error) for name in plain):
        return None
    if len(_unwilling) >= SERVERS_MAX:
        _unwilling.clear()
    _unwilling[_server(call)] = None
    kept = {name: value for name, value in request.items() if name not in plain}
    return kept | {name: value for name, value in plain.items() if value is not None}


def _server(call: Call) -> tuple[Any, ...]:
    said = call.attributes.get
    return said(semconv.SERVER_ADDRESS), said(semconv.SERVER_PORT), str(call.name)
