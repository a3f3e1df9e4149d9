"""urllib3: what its pools send, whoever uses them; what `requests` sends was decided above.

Rules: a pool manager sees a request whole, and a pool every hop of it. Headers of the caller's are copied, never
changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanledger.core.egress import Change, Request
from spanledger.instrument.libraries.requests import body_of
from spanledger.instrument.library import EGRESS, Egress, Library, Wrap, no_call

_NAMES = (
    *("method", "url", "body", "headers", "retries", "redirect", "assert_same_host", "timeout", "pool_timeout"),
    *("release_conn", "chunked", "body_pos"),
)


def read(pool: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request:
    """Read a request of `HTTPConnectionPool.urlopen`."""
    given = _named(_NAMES, args, kwargs)
    url = given["url"]
    if url.startswith("/"):  # else it goes through a proxy, and is whole
        host = f"[{pool.host}]" if ":" in pool.host and not pool.host.startswith("[") else pool.host
        url = f"{pool.scheme}://{host}:{pool.port or {'http': 80}.get(pool.scheme, 443)}{url}"
    return _request(pool, given | {"url": url})


def read_whole(manager: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request:
    """Read a request of `PoolManager.urlopen`."""
    return _request(manager, _named(("method", "url", "redirect"), args, kwargs))


def write(
    pool: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], change: Change
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Make the arguments of a pool that send a changed request."""
    given = _named(_NAMES, args, kwargs)
    if change.url is not None and given["url"].startswith("/"):
        # Of a URL that was put together here, the pool takes what follows the host.
        change = Change(change.key, change.without_key, "/" + change.url.split("/", 3)[3], change.body)
    return (), _changed(pool, given, change)


def write_whole(
    manager: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], change: Change
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Make the arguments of a manager that send a changed request."""
    return (), _changed(manager, _named(("method", "url", "redirect"), args, kwargs), change)


def status(response: Any) -> int:
    """Return the status of a response."""
    return int(response.status)


def _named(names: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _request(client: Any, given: Mapping[str, Any]) -> Request:
    headers = given.get("headers")
    pairs = (client.headers if headers is None else headers).items()
    shown = tuple((_text(name), _text(value)) for name, value in pairs)
    return Request(given["method"], given["url"], shown, body_of(given.get("body")))


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _changed(client: Any, given: dict[str, Any], change: Change) -> dict[str, Any]:
    from urllib3._collections import HTTPHeaderDict

    headers = HTTPHeaderDict(client.headers if given.get("headers") is None else given["headers"])
    change.on(headers)
    changed = given | {"headers": headers}
    if change.url is not None:
        changed["url"] = change.url
    if change.body is not None:
        changed |= {"body": change.body, "chunked": False}
    return changed


LIBRARY = Library(
    name="urllib3",
    requires="urllib3>=1.26,<3",
    wraps=(
        Wrap(
            target="urllib3.poolmanager:PoolManager.urlopen",
            describe=no_call,
            operation=EGRESS,
            egress=Egress(status, read_whole, write_whole, whole="outer", hop=False),
        ),
        Wrap(
            target="urllib3.connectionpool:HTTPConnectionPool.urlopen",
            describe=no_call,
            operation=EGRESS,
            egress=Egress(status, read, write, whole="alone"),
        ),
    ),
)
