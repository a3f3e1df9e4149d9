"""Did it take effect? What an exception says about a side effect.

Rules: a timeout or a broken connection says nothing about what the other side did, so the outcome is unknown;
so it is when the caller was cancelled or interrupted after the start. Every other error is a definite failure,
because the tool itself says so. The table goes by qualified name, so that no library is imported for it, and is
walked along `__cause__` and `__context__`: what a tool wraps in its own error type stays ambiguous. A rule's own
types win over the table.
"""

from __future__ import annotations

from collections.abc import Iterator

from spanledger.core.rules import Terms

_CHAIN_MAX = 32

# By name of the class or of one of its bases; verified against the libraries' current releases.
_AMBIGUOUS = frozenset(
    """
    builtins.TimeoutError builtins.ConnectionError builtins.EOFError builtins.KeyboardInterrupt
    builtins.SystemExit builtins.GeneratorExit
    asyncio.exceptions.CancelledError asyncio.exceptions.IncompleteReadError concurrent.futures._base.CancelledError
    http.client.RemoteDisconnected http.client.IncompleteRead
    httpx.TimeoutException httpx.NetworkError httpx.RemoteProtocolError
    httpx2.TimeoutException httpx2.NetworkError httpx2.RemoteProtocolError
    requests.exceptions.Timeout requests.exceptions.ConnectionError requests.exceptions.ChunkedEncodingError
    urllib3.exceptions.TimeoutError urllib3.exceptions.ProtocolError
    aiohttp.client_exceptions.ClientConnectionError aiohttp.client_exceptions.ServerTimeoutError
    aiohttp.client_exceptions.ClientPayloadError
    grpc.RpcError
    botocore.exceptions.ConnectionError botocore.exceptions.HTTPClientError
    openai.APIConnectionError anthropic.APIConnectionError
    psycopg.OperationalError psycopg.errors.OperationalError
    trio.Cancelled
    """.split()
)

# Raised before anything was sent: nothing can have happened. They derive from ambiguous ones.
_DEFINITE = frozenset(
    """
    builtins.ConnectionRefusedError socket.gaierror
    httpx.ConnectError httpx.ConnectTimeout httpx.PoolTimeout
    httpx2.ConnectError httpx2.ConnectTimeout httpx2.PoolTimeout
    requests.exceptions.ConnectTimeout urllib3.exceptions.NewConnectionError urllib3.exceptions.ConnectTimeoutError
    aiohttp.client_exceptions.ClientConnectorError aiohttp.client_exceptions.ConnectionTimeoutError
    """.split()
)


def is_ambiguous(error: BaseException, terms: Terms) -> bool:
    """Tell whether the side effect may have happened although the tool raised `error`."""
    for link in _chain(error):
        if isinstance(link, terms.definite_errors):
            return False
        if isinstance(link, terms.ambiguous_errors):
            return True
        names = [_name(cls) for cls in type(link).__mro__]
        # The most derived name decides: a refused connection is a connection error that is definite.
        for name in names:
            if name in _DEFINITE:
                return False
            if name in _AMBIGUOUS:
                return True
    return False


def describe_error(error: BaseException) -> dict[str, str]:
    """Put an error into words for the ledger."""
    return {"type": _name(type(error)), "message": str(error)[:2000]}


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(seen) < _CHAIN_MAX:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _name(cls: type) -> str:
    name = f"{cls.__module__}.{cls.__qualname__}"
    # Some libraries define errors in private modules and publish them at the top.
    top = cls.__module__.partition(".")[0]
    return (
        f"{top}.{cls.__qualname__}"
        if top in ("httpx", "httpx2", "openai", "anthropic", "trio", "grpc")
        else name
    )
