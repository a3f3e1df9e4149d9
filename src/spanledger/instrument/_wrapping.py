"""What a wrapper does, for each kind of function there is to wrap.

Rules: a wrapper is of the form of what it wraps: a function, a coroutine function or a generator of either kind. A
generator function is asked about when it begins, which is when it would send. Of a call of a model all arguments are
given by their names, as far as the function takes them so; a call that cannot be described is refused where it may be
a tool's, and else not traced.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import wrapt

from spanledger._guard import current_call
from spanledger.core.call import INVOKE_AGENT, Call, ScopeSource
from spanledger.core.frozen import changed
from spanledger.errors import SpanledgerError, Undescribable
from spanledger.instrument import _deferred, _egress, _runtime, _yielding
from spanledger.instrument._engine import Engine
from spanledger.instrument._job import is_tool, job_for
from spanledger.instrument._travel import received, sent
from spanledger.instrument.library import TELL, Wrap
from spanledger.telemetry import model_spans

if TYPE_CHECKING:
    _FunctionWrapper = wrapt.FunctionWrapper[Any, Any]
else:  # only their stubs are generic
    _FunctionWrapper = wrapt.FunctionWrapper

logger = logging.getLogger("spanledger.instrument")

HIDE, DEFER = "hide", "defer"


def _noting(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    # Who was cancelled is not heard here: the call may be over, and the one around it is another.
    current_call().inside.hidden = _not_refused((instance, *args, *kwargs.values()))
    return wrapped(*args, **kwargs)


def _telling(wrapped: Any, _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    _not_refused((sys.exception(),))
    return wrapped(*args, **kwargs)


def _not_refused(values: Iterable[Any]) -> Exception | None:
    """Find the exception among values, and raise it where it is a refusal: its rule says what becomes of it."""
    hidden = next((value for value in values if isinstance(value, Exception)), None)
    if isinstance(hidden, SpanledgerError) and hidden._on_refusal:  # noqa: SLF001 - our own class
        raise hidden
    return hidden


_NO_CALLS: Final = {HIDE: _noting, TELL: _telling, DEFER: _deferred.deferring}


def wrapper_for(engine: Engine, wrap: Wrap, original: Any) -> Callable[..., Any]:
    """Return what a wrapper of a function does: (function, instance, args, kwargs) → what the caller gets."""
    if wrap.operation in _NO_CALLS:
        return _NO_CALLS[wrap.operation]
    if wrap.hands or wrap.gives:
        return _handing(wrap)
    # SDKs hide `async def` under plain decorators.
    plain = inspect.unwrap(original)
    awaiting = inspect.iscoroutinefunction(plain)
    if wrap.announced is not None:
        return _announcing(wrap.announced, awaiting=awaiting)
    if wrap.egress is not None:
        return _egress.sending(engine, wrap.egress, awaiting=awaiting)
    if is_tool(wrap):
        if inspect.isasyncgenfunction(plain):
            return _yielding_tool(_tool(engine, wrap, awaiting=True))
        return _tool(engine, wrap, awaiting=awaiting)
    if wrap.operation == INVOKE_AGENT:
        return _agent(engine, wrap, original)
    if inspect.isasyncgenfunction(plain):
        return _beginning_awaiting(_model(engine, wrap, awaiting=True))
    asked = _model(engine, wrap, awaiting=awaiting)
    return _beginning(asked) if inspect.isgeneratorfunction(plain) else asked


def _beginning(asked: Callable[..., Any]) -> Callable[..., Any]:
    """Of a generator function: what it would send when it begins is asked about then."""

    def beginning(
        wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Generator[Any, Any, Any]:
        return (yield from asked(wrapped, instance, args, kwargs))

    return beginning


def _beginning_awaiting(asked: Callable[..., Any]) -> Callable[..., Any]:
    async def beginning(
        wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncIterator[Any]:
        @functools.wraps(wrapped)
        async def begun(*args: Any, **kwargs: Any) -> Any:
            return wrapped(*args, **kwargs)

        async with contextlib.aclosing(await asked(begun, instance, args, kwargs)) as chunks:
            async for chunk in chunks:
                yield chunk

    return beginning


def _handing(wrap: Wrap) -> Callable[..., Any]:
    def run(awaiting: bool, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # What was registered outlives the engine.
        engine = _runtime.active()
        if engine is None:
            return wrapped(*args, **kwargs)
        return _tool(engine, wrap, awaiting=awaiting)(wrapped, instance, args, kwargs)

    def guarded(function: Any, *, awaiting: bool = True) -> Any:
        return _FunctionWrapper(function, functools.partial(run, awaiting))

    def handing(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        engine = _runtime.active()
        if wrap.gives is not None and engine is not None:
            try:
                args, kwargs = wrap.gives(instance, args, kwargs, guarded)
            except Exception as error:  # noqa: BLE001 - raised again, but in mode "shadow"
                _undescribed(engine, wrap, error)
        found = wrapped(*args, **kwargs)
        return found if wrap.hands is None else wrap.hands(found, guarded)

    return handing


def _announcing(spans_of: Callable[..., Any], *, awaiting: bool) -> Callable[..., Any]:
    def announce(args: tuple[Any, ...], kwargs: dict[str, Any], found: Any) -> Any:
        try:
            model_spans.announce(spans_of(args, kwargs, found))
        except Exception:
            logger.warning("spans of others are not found, and stand beside those of model calls", exc_info=True)
        return found

    async def announcing_awaiting(wrapped: Any, _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return announce(args, kwargs, await wrapped(*args, **kwargs))

    def announcing(wrapped: Any, _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return announce(args, kwargs, wrapped(*args, **kwargs))

    return announcing_awaiting if awaiting else announcing


def _tool(engine: Engine, wrap: Wrap, *, awaiting: bool) -> Callable[..., Any]:
    run = engine.run_awaiting if awaiting else engine.run

    def tool(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            call = _call_of(wrap.describe(instance, args, kwargs))
            codec = wrap.codec_of(instance, args, kwargs) if wrap.codec_of and call else wrap.codec
            pause = wrap.pause(instance, args, kwargs) if wrap.pause and call else None
            tell = wrap.tell_of(instance, args, kwargs) if wrap.tell_of and call else wrap.tell
        except Exception as error:  # noqa: BLE001 - raised again, but in mode "shadow"
            _undescribed(engine, wrap, error)
            return wrapped(*args, **kwargs)
        if call is None:
            return wrapped(*args, **kwargs)
        travelled = received(wrap, instance, args, kwargs)
        job = job_for(wrap, call, codec=codec, pause=pause, tell=tell, travelled=travelled)
        return run(job, lambda: wrapped(*args, **sent(wrap, kwargs)))

    return tool


def _call_of(described: Any) -> Call | None:
    """Take what a library describes; the scope that it knows is the framework's, and gives way to the program's own."""
    if described is None:
        return None
    if not isinstance(described, Call):
        raise TypeError(f"its library describes it as a {type(described).__name__}, which is no spanledger.Call")
    if described.workflow_id and described.workflow_source is ScopeSource.GIVEN:
        return changed(described, workflow_source=ScopeSource.FRAMEWORK)
    return described


def _undescribed(engine: Engine, wrap: Wrap, error: Exception) -> None:
    """Refuse a call that cannot be described: which tool it is cannot even be said, so no rule can be excluded."""
    if engine.guard.config.mode != "shadow":
        raise Undescribable(f"a call of {wrap.target} cannot be described: {error}") from error
    logger.warning("shadow: a call of %s runs; enforced, it would be refused", wrap.target, exc_info=error)


def _yielding_tool(tool: Callable[..., Any]) -> Callable[..., Any]:
    def yielding(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def last(*args: Any, **kwargs: Any) -> Any:
            return _yielding.last_of(wrapped(*args, **kwargs))

        return _yielding.passing(functools.partial(_awaited, tool, last, instance, args, kwargs))

    return yielding


async def _awaited(function: Callable[..., Any], *args: Any) -> Any:
    return await function(*args)


def _by_name(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give all arguments by their names, where the function takes them so; else as they are."""
    try:
        signature = inspect.signature(function)
        given = signature.bind(*args, **kwargs)
    except (TypeError, ValueError):
        return args, kwargs
    parameters = list(signature.parameters.values())[: len(args)]
    if any(parameter.kind is not parameter.POSITIONAL_OR_KEYWORD for parameter in parameters):
        return args, kwargs
    return (), {**{parameter.name: given.arguments[parameter.name] for parameter in parameters}, **kwargs}


def _described(wrap: Wrap, owner: Any, args: tuple[Any, ...], request: Mapping[str, Any]) -> Call | None:
    try:
        call = wrap.describe(owner, args, request)
        return call if type(call) is Call and call.workflow_id is None else _call_of(call)
    except Exception:
        logger.warning("a call of %s cannot be described and is not traced", wrap.target, exc_info=True)
        return None


def _agent(engine: Engine, wrap: Wrap, original: Any) -> Callable[..., Any]:
    trace = engine.agents.way(original)

    def traced(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = _described(wrap, instance, args, kwargs)
        if call is None:
            return wrapped(*args, **kwargs)
        return trace(replace(job_for(wrap, call), given=(instance, args, kwargs)), lambda: wrapped(*args, **kwargs))

    return traced


def _model(engine: Engine, wrap: Wrap, *, awaiting: bool) -> Callable[..., Any]:
    ask: Callable[..., Any] = engine.models.ask_awaiting if awaiting else engine.models.ask

    def asked(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            args, kwargs = _by_name(wrapped, args, kwargs)
        call = _described(wrap, instance, args, kwargs)
        if call is None:
            return wrapped(*args, **kwargs)
        return ask(wrap, call, functools.partial(wrapped, *args) if args else wrapped, kwargs)

    def entered(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        deferred = _deferred.asked_by(instance)
        if deferred is None:
            return asked(wrapped, instance, args, kwargs)
        owner, request = deferred
        call = _described(wrap, owner, args, request)
        if call is None:
            return wrapped(*args, **kwargs)
        asking = ask(wrap, call, lambda **_request: wrapped(*args, **kwargs), request)
        return _deferred.entering(instance, asking) if awaiting else asking

    return entered if wrap.path.endswith("enter__") else asked
