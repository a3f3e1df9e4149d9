"""What a model call says of its request, besides its content: where it goes and with which parameters.

Rules: a program asks with few of them, over and over, so a call is described once for each; nobody changes a `Call`.
The clients are those that Stainless generates, whose server is known by their `base_url`. What a caller adds to the
body by hand is sent instead of what was said by keyword.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from spanledger.core.call import Call
from spanledger.instrument.libraries._figures import number
from spanledger.telemetry import semconv

ProviderOf = Callable[[Any], str]

# Of so many servers and so many ways to ask the last ones are remembered.
_SERVERS_MAX: Final = 128
_WAYS_MAX: Final = 512


class Server(NamedTuple):
    """Where a client sends its requests.

    Attributes:
        provider: Whose it is, as the conventions name them.
        address: The host.
        port: The port, where it is not the usual one.
    """

    provider: str
    address: str
    port: int | None


# By the class of the client and the identity of its URL, which is kept here and so stays the only one that has it:
# hashing a URL takes as long as reading it.
_servers: dict[tuple[type, int], tuple[Any, Server]] = {}


def provider_named(cls: type, providers: Mapping[str, str]) -> str | None:
    """Find a provider by what the name of a client's class holds, or that of a class it is made of."""
    names = [base.__name__ for base in cls.__mro__]
    return next((provider for part, provider in providers.items() if any(part in name for name in names)), None)


def sent(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what is sent: the keyword arguments, and over them what the caller adds to the body."""
    extra = kwargs.get("extra_body")
    if not extra or not isinstance(extra, Mapping):
        return kwargs
    said = {**kwargs, **extra}
    del said["extra_body"]
    return said


def call_of(
    provider_of: ProviderOf, instance: Any, kwargs: Mapping[str, Any], operation: str, most: Any = None
) -> Call:
    """Describe a model call.

    Args:
        provider_of: A client → whose server it asks.
        instance: The resource of the client that makes the call.
        kwargs: What is `sent`.
        operation: The GenAI operation.
        most: The most tokens that the model may write, where the request says so.
    """
    client = instance._client  # noqa: SLF001 - no public way from a resource to its client
    # The public property of one of them imports a module at every look.
    url = getattr(client, "_base_url", None) or client.base_url
    known = _servers.get((type(client), id(url)))
    server = _server(provider_of(client), client, url) if known is None else known[1]
    given = kwargs.get
    asked = server, operation, given("model"), given("stream"), most, given("temperature"), given("top_p")
    try:
        return _call(*asked)
    except TypeError:  # it cannot be hashed, and is no figure
        return _call.__wrapped__(*asked)


def _server(provider: str, client: Any, url: Any) -> Server:
    """Read where a client sends its requests, and remember it."""
    server = Server(provider, url.host, url.port)
    if len(_servers) >= _SERVERS_MAX:
        _servers.clear()
    _servers[type(client), id(url)] = url, server
    return server


@functools.lru_cache(maxsize=_WAYS_MAX, typed=True)  # 1 and 1.0 are not the same on a span
def _call(server: Server, operation: str, model: Any, streamed: Any, *figures: Any) -> Call:
    most, temperature, top_p = map(number, figures)
    said = {
        semconv.PROVIDER_NAME: server.provider,
        semconv.SERVER_ADDRESS: server.address,
        semconv.SERVER_PORT: server.port,
        semconv.REQUEST_STREAM: True if streamed is True else None,
        semconv.REQUEST_MAX_TOKENS: most,
        semconv.REQUEST_TEMPERATURE: temperature,
        semconv.REQUEST_TOP_P: top_p,
    }
    attributes = {name: value for name, value in said.items() if value is not None}
    return Call(str(model or "unknown"), operation, attributes=attributes)
