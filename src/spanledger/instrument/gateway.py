"""`guard()`: one guarded call of whatever the caller can make: an RPC, a subprocess, a tool of somebody else's server.

Rules: this is for programs that pass calls on without being the tool: gateways, proxies, dispatchers. The call is
decided under its own name and arguments before `invoke` is called, and `invoke` gets the arguments from here and from
nowhere else: without what a grant redacts. What it gives back is kept as its annotation says; a result of MCP, whose
failures are told by a field, is understood as it stands. In mode "off" everything here is transparent.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, overload

from spanledger import jsonpaths
from spanledger.core.call import Call, Codec
from spanledger.core.connectors import Answer
from spanledger.core.outgoing import FAILED_FROM_STATUS
from spanledger.core.rules import Rule
from spanledger.errors import ConfigError
from spanledger.instrument import _runtime
from spanledger.instrument._job import Job
from spanledger.instrument._results import TypedCodec, returned_by
from spanledger.instrument.libraries import _mcp_results, mcp
from spanledger.instrument.library import Wrap

T = TypeVar("T")
Arguments = dict[str, Any]


@overload
def guard(
    name: str,
    arguments: Mapping[str, Any],
    invoke: Callable[[Arguments], Awaitable[T]],
    *,
    key: str | None = None,
    call_id: str | None = None,
    **rule: Any,
) -> Awaitable[T]: ...
@overload
def guard(
    name: str,
    arguments: Mapping[str, Any],
    invoke: Callable[[Arguments], T],
    *,
    key: str | None = None,
    call_id: str | None = None,
    **rule: Any,
) -> T: ...
def guard(
    name: str,
    arguments: Mapping[str, Any],
    invoke: Callable[[Arguments], Any],
    *,
    key: str | None = None,
    call_id: str | None = None,
    **rule: Any,
) -> Any:
    """Pass a call on, at most once, as rules, budgets, grants and people allow.

    For whom and in which workflow is what `workflow` says around it. The same call in the same workflow is passed on
    once; whoever makes it again is given the recorded result.

    Args:
        name: The tool's name, by which rules, budgets and switches find it.
        arguments: What it is called with, JSON values.
        invoke: Makes the call: takes the arguments as one dict, without what a grant redacts, and returns the result.
            A coroutine function (`functools.partial` of one too) is awaited.
        key: An idempotency key of your own, for example the one that your caller has sent.
        call_id: The id that a model's provider gave to this call.
        **rule: Fields of `Rule` that apply where the configuration says nothing else, for example ``permission``.

    Returns:
        What `invoke` returns; an awaitable of that where it is a coroutine function.

    Raises:
        SpanledgerError: It is not passed on; the kind of error says why. What `invoke` raises comes as it is.
        ConfigError: A value that a rule cannot have, or an `invoke` that gives back a coroutine without being a
            coroutine function.
    """
    if not callable(invoke):
        raise ConfigError(f"guard takes the function that makes the call of {name!r}, not {invoke!r}")
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"guard takes the arguments of {name!r} as a mapping by name, not {type(arguments).__name__}")
    plain = inspect.unwrap(invoke)
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise ConfigError(f"{name!r} is passed on by a generator: what it has done when broken off cannot be told")
    try:
        own = Rule(name, **rule)
    except TypeError as error:
        raise ConfigError(f"guard: {error}") from None
    jsonpaths.check(own.redact)
    # Whoever calls may change them while a person is asked, and what is passed on is what was decided.
    given = copy.deepcopy(dict(arguments))
    call = Call(name, arguments=given, key=key, call_id=call_id, opted_in=True, passed_on=True)
    passing = _Passing(given, invoke)
    job = Job(call, _Codec(returned_by(plain)), own, _PASSED_ON, takes=passing.takes)
    awaits = any(map(inspect.iscoroutinefunction, (invoke, plain, type(invoke).__call__)))
    return _awaiting(job, passing) if awaits else _blocking(job, passing)


class _Passing:
    """Calls `invoke` with the arguments that it may have."""

    def __init__(self, arguments: Arguments, invoke: Callable[[Arguments], Any]) -> None:
        self._arguments = arguments
        self._invoke = invoke

    def takes(self, arguments: Mapping[str, Any]) -> None:
        """Call it with others."""
        self._arguments = dict(arguments)

    def __call__(self) -> Any:
        return self._invoke(self._arguments)


def _blocking(job: Job, passing: _Passing) -> Any:
    engine = _runtime.engine()
    return passing() if engine is None else engine.run(job, passing)


async def _awaiting(job: Job, passing: _Passing) -> Any:
    engine = _runtime.engine()
    return await (passing() if engine is None else engine.run_awaiting(job, passing))


class _Codec:
    """Keeps what `invoke` returned, a result of MCP included."""

    def __init__(self, annotation: Any) -> None:
        self._typed: Codec = TypedCodec(None if _is_of_mcp(annotation) else annotation)
        self._mcp: Codec = _mcp_results.ResultCodec()

    def encode(self, result: Any) -> Any:
        """Turn a result into a JSON tree that gives it back equal."""
        return (self._mcp if _is_of_mcp(type(result)) else self._typed).encode(result)

    def decode(self, tree: Any, call: Call) -> Any:
        """Turn a kept tree into the result."""
        return (self._mcp if _mcp_results.is_kept(tree) else self._typed).decode(tree, call)


def _is_of_mcp(kind: Any) -> bool:
    # The package need not be installed, and has its types in one of its own from 2 on.
    return getattr(kind, "__module__", "").partition(".")[0] in ("mcp", "mcp_types")


def _failure(result: Any) -> str | None:
    if isinstance(result, Answer):
        return f"HTTP status {result.status}" if result.status >= FAILED_FROM_STATUS else None
    return mcp.failure(result) if _is_of_mcp(type(result)) else None


def _asks_back(result: Any) -> bool:
    return _is_of_mcp(type(result)) and mcp.asks_back(result)


def _describe(*_: Any) -> None:
    """Nothing is wrapped: whoever calls `guard` describes the call."""


_PASSED_ON = Wrap(target="spanledger:guard", describe=_describe, failure=_failure, asks_back=_asks_back)
