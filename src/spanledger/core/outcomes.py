"""Did it take effect? What an exception says about a side effect.

Rules: a timeout or a broken connection says nothing about what the other side did, so the outcome is unknown;
so it is when the caller was cancelled or interrupted after the start. Every other error is a definite failure,
because the tool itself says so. The table goes by qualified name, so that no library is imported for it, and is
walked along `__cause__`, `__context__` and the members of groups: what a tool wraps in its own error type stays
ambiguous, also by `raise … from None`, which hides the cause from people but did not undo it. The first that says
anything decides; of a group, one that may have had an effect. A rule's own types win over the table.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TypeVar

from spanledger.core.rules import Terms
from spanledger.errors import ConfigError

T = TypeVar("T")

_LINKS_MAX = 256
MESSAGE_CHARS_MAX = 2000

# By name of the class or of one of its bases; verified against the libraries' current releases.
_AMBIGUOUS = frozenset(
    """
    builtins.TimeoutError builtins.ConnectionError builtins.EOFError builtins.KeyboardInterrupt
    builtins.SystemExit builtins.GeneratorExit
    asyncio.exceptions.CancelledError concurrent.futures._base.CancelledError concurrent.futures._base.BrokenExecutor
    multiprocessing.context.TimeoutError subprocess.TimeoutExpired
    ssl.SSLEOFError ssl.SSLZeroReturnError http.client.BadStatusLine http.client.IncompleteRead
    httpx.TimeoutException httpx.NetworkError httpx.RemoteProtocolError
    httpx2.TimeoutException httpx2.NetworkError httpx2.RemoteProtocolError
    requests.exceptions.Timeout requests.exceptions.ConnectionError requests.exceptions.ChunkedEncodingError
    urllib3.exceptions.TimeoutError urllib3.exceptions.ProtocolError
    aiohttp.client_exceptions.ClientConnectionError aiohttp.client_exceptions.ServerTimeoutError
    aiohttp.client_exceptions.ClientPayloadError
    grpc.RpcError
    botocore.exceptions.ConnectionError botocore.exceptions.HTTPClientError
    agents.exceptions.ToolTimeoutError openai.APIConnectionError anthropic.APIConnectionError
    psycopg.OperationalError psycopg.errors.OperationalError
    trio.Cancelled
    """.split()  # noqa: SIM905 - a table, to be read
)

# Raised before anything was sent: nothing can have happened. They derive from ambiguous ones.
_DEFINITE = frozenset(
    """
    builtins.ConnectionRefusedError socket.gaierror
    httpx.ConnectError httpx.ConnectTimeout httpx.PoolTimeout
    httpx2.ConnectError httpx2.ConnectTimeout httpx2.PoolTimeout
    requests.exceptions.ConnectTimeout urllib3.exceptions.NewConnectionError urllib3.exceptions.ConnectTimeoutError
    aiohttp.client_exceptions.ClientConnectorError aiohttp.client_exceptions.ConnectionTimeoutError
    spanledger.errors.LedgerUnavailable spanledger.errors.CallRefused spanledger.errors.CallPending
    """.split()  # noqa: SIM905 - a table, to be read
)

# Of what came back: a model has answered, and will be paid, though its answer is not what was wanted.
_UNREADABLE = frozenset(
    """
    json.decoder.JSONDecodeError pydantic_core._pydantic_core.ValidationError
    openai.LengthFinishReasonError openai.ContentFilterFinishReasonError
    openai.APIResponseValidationError anthropic.APIResponseValidationError
    """.split()  # noqa: SIM905 - a table, to be read
)

# Some say by a number what happened: the connection closed, the time was over, an answer that nobody can read.
_AMBIGUOUS_CODES = dict.fromkeys(
    ("mcp.shared.exceptions.McpError", "mcp.shared.exceptions.MCPError"), frozenset({-32000, -32001, -32700, 408})
)


def is_ambiguous(error: BaseException, terms: Terms) -> bool:
    """Tell whether the side effect may have happened although the tool raised `error`."""
    return _ambiguous(error, terms, set()) is True


def was_never_sent(error: BaseException) -> bool:
    """Tell whether an error, or what it came from, says that nothing was sent: a refused connection for example."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen and len(seen) < _LINKS_MAX:
        if not _DEFINITE.isdisjoint(map(_name, type(link).__mro__)):
            return True
        seen.append(link)
        link = link.__cause__ or link.__context__
    return False


def was_unreadable(error: BaseException) -> bool:
    """Tell whether an error is about an answer that could not be made what was wanted."""
    return not _UNREADABLE.isdisjoint(map(_name, type(error).__mro__))


def links(error: BaseException) -> Iterator[BaseException]:
    """Go from an error to all that it came from: causes, what was handled, the members of groups."""
    seen: set[int] = set()
    left = [error]
    while left and len(seen) < _LINKS_MAX:
        link = left.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        members = link.exceptions if isinstance(link, BaseExceptionGroup) else ()
        left += [other for other in (link.__cause__, link.__context__, *members) if other is not None]


def no_coroutine(name: str, value: T) -> T:
    """Pass on what a plain function returned, unless it is a coroutine: then nothing has happened yet.

    Raises:
        ConfigError: It is one, which must not be taken for a success; it is closed.
    """
    if inspect.iscoroutine(value):
        value.close()
        raise ConfigError(
            f"{name!r} is a plain function and gave back a coroutine, which has not run: make it `async def`, "
            "or guard the coroutine function itself"
        )
    return value


def describe_error(error: BaseException) -> dict[str, str]:
    """Put an error into words for the ledger; whatever the error is like, this does not raise."""
    try:
        message = str(error)
    except Exception as failed:  # noqa: BLE001 - the error of somebody's tool, and its effect has happened
        message = f"(no message: {type(failed).__name__})"
    return {"type": _name(type(error)), "message": storable(message)}


def alone(error: BaseException) -> BaseException:
    """Make an error one that is logged without what was handled when it was raised: that is the tool's and may tell."""
    link: BaseException | None = error
    for _ in range(_LINKS_MAX):
        if link is None:
            break
        link.__suppress_context__ = True
        link = link.__cause__
    return error


def storable(message: str) -> str:
    """Make a message one that Postgres can hold: not too long, without NUL and halves of surrogate pairs."""
    text = message[:MESSAGE_CHARS_MAX]
    if not text.isascii():  # what is, as nearly all, takes no look at each character
        text = text.encode("utf-8", "replace").decode()
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _ambiguous(error: BaseException | None, terms: Terms, seen: set[int]) -> bool | None:
    """Look at an error and what it hides; None where none of it says anything."""
    if error is None or id(error) in seen or len(seen) >= _LINKS_MAX:
        return None
    seen.add(id(error))
    said = _said(error, terms)
    if said is not None:
        return said
    members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    if any(_ambiguous(member, terms, seen) for member in members):
        return True
    for link in (error.__cause__, error.__context__):
        said = _ambiguous(link, terms, seen)
        if said is not None:
            return said
    return None


def _said(error: BaseException, terms: Terms) -> bool | None:
    if isinstance(error, terms.definite_errors):
        return False
    if isinstance(error, terms.ambiguous_errors):
        return True
    # The most derived name decides: a refused connection is a connection error that is definite.
    for name in map(_name, type(error).__mro__):
        if name in _DEFINITE:
            return False
        if name in _AMBIGUOUS or (name in _AMBIGUOUS_CODES and _code_of(error) in _AMBIGUOUS_CODES[name]):
            return True
    return None


def _code_of(error: BaseException) -> object:
    return getattr(getattr(error, "error", None), "code", None)


def _name(cls: type) -> str:
    name = f"{cls.__module__}.{cls.__qualname__}"
    # Some libraries define errors in private modules and publish them at the top.
    top = cls.__module__.partition(".")[0]
    return f"{top}.{cls.__qualname__}" if top in ("httpx", "httpx2", "openai", "anthropic", "trio", "grpc") else name
