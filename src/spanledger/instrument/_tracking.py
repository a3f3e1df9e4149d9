"""Requests of a tracked client, told when they are over.

Rules: telemetry fails open; whatever goes wrong here, the request goes on, and what is lost is counted. One request of
the program is told once, however often it is redirected. Of its query nothing is told but names, of an error its kind,
of its headers and its body nothing. It is in no budget: telling refuses nobody anything. The blocking and the awaiting
form are alike but for `await`.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from spanledger._guard import current_call
from spanledger.core.call import Call
from spanledger.core.egress import Request
from spanledger.core.outgoing import FAILED_FROM_STATUS
from spanledger.core.redaction import MASK
from spanledger.errors import SpanledgerError
from spanledger.instrument import recording
from spanledger.instrument.library import Egress
from spanledger.telemetry import model_spans, record, semconv, trail

PATH_CHARS_MAX: Final = 200

# What can be read as nothing but a name; an encoded separator may hide a value.
_NAME: Final = re.compile(r"(?:[\w.~$:\[\]-]|%(?!3d|26|3b|3f|23)[0-9a-f]{2})+", re.IGNORECASE)

# The request that is on its way here: it comes once more through the same function where it is redirected.
_under_way: ContextVar[_Telling | None] = ContextVar("spanledger_tracked", default=None)


def told(send: Callable[..., Any], egress: Egress, client: Any, *, awaiting: bool) -> Callable[..., Any]:
    """Make of a function that sends one that tells as well; of one that only sees hops, the function itself."""
    under_way = _under_way.get()
    redirected = under_way is not None and under_way.is_of(client)
    if egress.whole == "never" or redirected or model_spans.is_inside():
        return send

    def sending(*args: Any, **kwargs: Any) -> Any:
        with _Telling(egress, client, args, kwargs) as telling:
            telling.result = send(*args, **kwargs)
        return telling.result

    async def sending_awaiting(*args: Any, **kwargs: Any) -> Any:
        with _Telling(egress, client, args, kwargs) as telling:
            telling.result = await send(*args, **kwargs)
        return telling.result

    return sending_awaiting if awaiting else sending


class _Telling:
    """One request on its way."""

    def __init__(self, egress: Egress, client: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.result: Any = None
        self._egress = egress
        self._client = client
        self._given = args, kwargs
        self._over = False

    def is_of(self, client: Any) -> bool:
        """Tell whether it is on its way through this client; what it has started may outlive it."""
        return self._client is client and not self._over

    def __enter__(self) -> Self:
        self._token = _under_way.set(self)
        self._began_s = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        took_s = time.perf_counter() - self._began_s
        self._over = True
        with contextlib.suppress(ValueError):  # it was gone on with in another context than it was begun in
            _under_way.reset(self._token)
        if isinstance(error, SpanledgerError):
            return  # it was not sent, and that is told already
        try:
            read = self._egress.asked or self._egress.read
            if read is not None:
                status = None if error is not None else self._egress.status(self.result)
                _tell(read(self._client, *self._given), status, error, took_s)
        except Exception as lost:  # noqa: BLE001 - counted and logged; nothing else is affected
            trail.lose(f"a request of {type(self._client).__qualname__} cannot be told: {type(lost).__name__}")


def _tell(request: Request, status: int | None, error: BaseException | None, took_s: float) -> None:
    method, (host, path, url) = request.method.upper(), shown(request.url)
    name = f"{method} {host}{path[:PATH_CHARS_MAX]}"
    failed: dict[str, str] | None = None
    if error is not None:
        # Its words may repeat the URL, values and all.
        failed = {"type": record.type_of(error), "message": type(error).__name__}
    elif status is not None and status >= FAILED_FROM_STATUS:
        failed = {"type": "error", "message": f"HTTP status {status}"}
    call = current_call()
    if call.key is not None and not call.inside.over:
        why = {} if failed is None else {"error": failed["message"]}
        said = {"method": method, "url": url, "status": status, "latency_s": round(took_s, 6)}
        recording.tell_event(name, said | why, call.key)
        return
    attributes = {
        semconv.HTTP_METHOD: method,
        semconv.SERVER_ADDRESS: host,
        semconv.URL_FULL: url,
        semconv.HTTP_STATUS_CODE: status,
    }
    arguments = {"method": method, "url": url, "status": status}
    recording.tell_call(Call(name, arguments=arguments, attributes=attributes), took_s, failed)


def shown(url: str) -> tuple[str, str, str]:
    """Return the host, the path, and the URL as people may read it: no user, no fragment, no values of the query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    query = "&".join(_named(part) for part in parts.query.split("&") if part)
    path = parts.path or "/"
    return host, path, f"{parts.scheme}://{host}{path}{query and '?'}{query}"


def _named(part: str) -> str:
    name, separator, _ = part.partition("=")
    return f"{name}={MASK}" if separator and _NAME.fullmatch(name) else MASK
