"""`@tool` and `tool_call()`: guard a function or a block of one's own.

Rules: arguments are bound by name, defaults included, so that `refund("o-1")` and `refund(order_id="o-1")` are one
call. The object of a method is not part of the call. A kept result comes back as the annotation of the function
says, or is not kept. In mode "off" everything here is transparent.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from opentelemetry.trace import INVALID_SPAN, Span

from spanledger import jsonpaths
from spanledger._guard import RunningCall, running, tell_outer
from spanledger._inside import Inside
from spanledger.core.asking import Asking
from spanledger.core.call import Begun, Call, Codec, Ended, Outcome, Resource, Verdict
from spanledger.core.money import Amount
from spanledger.core.obliging import also, obliged
from spanledger.core.rules import Rule
from spanledger.core.settling import finished
from spanledger.core.steps import admitted, replayed
from spanledger.errors import ConfigError, SpanledgerError
from spanledger.instrument import _runtime
from spanledger.instrument._engine import Engine
from spanledger.instrument._job import Job
from spanledger.instrument._messages import redacts
from spanledger.instrument._patch import _Wrapper
from spanledger.instrument._results import TypedCodec, returned_by
from spanledger.telemetry import gate, record

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@overload
def tool(function: Callable[P, R], /, **rule: Any) -> Callable[P, R]: ...
@overload
def tool(name: str | None = None, /, **rule: Any) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def tool(function: Any = None, /, **rule: Any) -> Any:
    """Guard a function: for the same arguments in the same workflow it runs once.

    Args:
        function: The function, or the tool's name where the decorator is called; else the function's name.
        **rule: Fields of `Rule` that apply where the configuration says nothing else.

    Raises:
        ConfigError: A generator function, something that cannot be called or has no name, or a value that a rule
            cannot have.
    """
    name = function if isinstance(function, str) else None

    def decorate(decorated: Callable[P, R]) -> Callable[P, R]:
        if not callable(decorated):
            below = "; put it below @classmethod" if isinstance(decorated, classmethod) else ""
            raise ConfigError(f"@tool guards a function, or takes a tool's name, and is given {decorated!r}{below}")
        try:
            own = Rule(_name_of(decorated) if name is None else name, **rule)
        except TypeError as error:
            raise ConfigError(f"@tool: {error}") from None
        jsonpaths.check(own.redact)
        redacts(own)
        return typing.cast("Callable[P, R]", _guarded(decorated, own))

    return decorate if function is None or name is not None else decorate(function)


class tool_call:  # noqa: N801 - reads as a function, like the decorator beside it
    """Guard a block: `with tool_call("stripe.refund", {"order_id": "o-1"}) as call:`.

    Attributes:
        replayed: The call succeeded before; `result` is what it gave, and the block must not do it again.
        result: What to keep; set it inside the block.
    """

    def __init__(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        workflow_id: str | None = None,
        key: str | None = None,
        resource: Resource | None = None,
        cost: Amount | None = None,
        **rule: Any,
    ) -> None:
        """Describe the call.

        Args:
            name: The tool's name.
            arguments: What it is called with.
            workflow_id: The scope of idempotency, where no workflow is around.
            key: An idempotency key of your own.
            resource: What identifies the call instead of its arguments.
            cost: What to reserve.
            **rule: Fields of `Rule` that apply where the configuration says nothing else.
        """
        try:
            self._own = Rule(name, **rule)
        except TypeError as error:
            raise ConfigError(f"tool_call: {error}") from None
        jsonpaths.check(self._own.redact)
        redacts(self._own)
        self._call = Call(
            name,
            arguments=dict(arguments or {}),
            workflow_id=workflow_id,
            key=key,
            resource=resource,
            cost=cost,
            opted_in=True,
        )
        self._codec = TypedCodec()
        self._engine: Engine | None = None
        self._stands: Inside | None = None
        self._span: Span = INVALID_SPAN
        self._asked: tuple[Asking, Begun] | None = None
        self._ambient: list[AbstractContextManager[Any]] = []
        self._key: str | None = None
        self.replayed = False
        self.result: Any = None

    @property
    def key(self) -> str | None:
        """The idempotency key, to pass downstream; None in mode "off"."""
        return self._key

    def __enter__(self) -> Self:
        engine = self._engine = _runtime.engine()
        asking = None if engine is None else self._start(engine)
        if engine is not None and asking is not None:
            try:
                self._begun(asking, engine.guard.blocking.drive(admitted(asking)))
            except BaseException as error:
                self._not_begun(error)
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        engine, ended = self._engine, self._ended(error)
        if engine is not None and self._asked is not None and not self.replayed:
            outcome = engine.guard.blocking.drive(finished(*self._asked, ended, self._codec))
            self._finished(outcome)
        record.end(self._span)

    async def __aenter__(self) -> Self:
        engine = self._engine = _runtime.engine()
        asking = None if engine is None else self._start(engine)
        if engine is not None and asking is not None:
            try:
                self._begun(asking, await engine.guard.awaiting.drive(admitted(asking)))
            except BaseException as error:
                self._not_begun(error)
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        engine, ended = self._engine, self._ended(error)
        if engine is not None and self._asked is not None and not self.replayed:
            outcome = await engine.guard.awaiting.drive(finished(*self._asked, ended, self._codec))
            self._finished(outcome)
        record.end(self._span)

    def _start(self, engine: Engine) -> Asking | None:
        """Describe the call to the ledger; None where a wrapper around the block has asked already."""
        self._span = record.start(self._call)
        try:
            with gate.inside():
                asking = engine.guard.asking(self._call, own=self._own, span=record.trace_of(self._span))
                left = engine.guard.left(asking)
        except BaseException as error:
            self._not_begun(error)
            raise
        self._key = asking.identity.key
        if isinstance(left, Inside):
            self._stands = left
            record.called(self._span, self._call, engine.guard.config.content(self._call, self._own))
            self._within(record.current(self._span))
            return None
        record.asked(self._span, left)
        return replace(left, obliged=())

    def _begun(self, asking: Asking, begun: Begun) -> None:
        asking = obliged(asking, begun)
        record.called(self._span, asking.call, asking.content)
        record.begun(self._span, begun)
        self._asked = asking, begun
        if begun.verdict is Verdict.REPLAY:
            outcome = replayed(asking, begun, self._codec)
            self.replayed, self.result = True, outcome.ended.value
            self._finished(outcome)
        self._ran: RunningCall = self._within(running(asking, begun))
        self._within(record.current(self._span))

    def _finished(self, outcome: Outcome) -> None:
        if self._asked is not None:
            record.finished(self._span, outcome, self._asked[0].content)
            tell_outer(self._asked[0], outcome)

    def _within(self, manager: AbstractContextManager[T]) -> T:
        self._ambient.append(manager)
        return manager.__enter__()

    def _ended(self, error: BaseException | None) -> Ended:
        if self._asked is None and error is not None:
            record.failed(self._span, error)
        while self._ambient:
            self._ambient.pop().__exit__(None, None, None)
        if self._stands is not None:
            self._stands.leave()
        if self._asked is None:
            return Ended(self.result, error=error)
        inside = self._ran.inside
        cost = self._ran.cost(succeeded=error is None)
        return inside.told_by(Ended(self.result, error=error, doubtful=inside.doubtful, cost=cost))

    def _not_begun(self, error: BaseException) -> None:
        if isinstance(error, SpanledgerError):
            if error._redact is not None and self._engine is not None:  # noqa: SLF001 - our own class
                content = self._engine.guard.config.content(self._call, self._own)
                record.called(self._span, self._call, also(content, error._redact, self._call.arguments))  # noqa: SLF001
            record.refused(self._span, error)
        else:
            record.failed(self._span, error)
        record.end(self._span)


def _name_of(function: Any) -> str:
    name = getattr(function, "__name__", None)
    if not isinstance(name, str):
        raise ConfigError(f'{function!r} has no name of its own: give it one, as in @tool("refund")')
    return name


def _guarded(function: Callable[..., Any], own: Rule) -> Any:
    # What a partial function was given before is part of the call, and its signature does not show all of it.
    part = function if isinstance(function, functools.partial) else functools.partial(function)
    plain = _run_by(inspect.unwrap(part.func))
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise ConfigError(f"{own.match!r} is a generator: what it has done when it is broken off cannot be told")
    try:
        signature = inspect.signature(part.func)
    except ValueError as error:
        raise ConfigError(f"{own.match!r} does not say what it takes, so its calls cannot be told apart") from error
    codec: list[Codec] = []
    # A method that was taken from its object has it no more in its signature.
    taken = inspect.ismethod(function)

    def job(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job:
        if not codec:
            codec.append(TypedCodec(returned_by(plain)))
        skips = instance is not None and not taken
        arguments = _bound(signature, (*part.args, *args), {**part.keywords, **kwargs}, skip_first=skips)
        return Job(Call(own.match, arguments=arguments, opted_in=True), codec[0], own)

    def blocking(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        engine = _runtime.engine()
        if engine is None:
            return wrapped(*args, **kwargs)
        return engine.run(job(instance, args, kwargs), lambda: wrapped(*args, **kwargs))

    async def awaiting(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        engine = _runtime.engine()
        if engine is None:
            return await wrapped(*args, **kwargs)
        return await engine.run_awaiting(job(instance, args, kwargs), lambda: wrapped(*args, **kwargs))

    awaits = any(map(inspect.iscoroutinefunction, (function, plain)))
    return _Wrapper(function, awaiting if awaits else blocking)


def _run_by(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that runs where something is called; of a class, which makes what it is, itself."""
    return function if inspect.isroutine(function) or inspect.isclass(function) else type(function).__call__


def _bound(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any], *, skip_first: bool
) -> dict[str, Any]:
    bound = signature.bind(*((None, *args) if skip_first else args), **kwargs)
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    if skip_first:
        arguments.pop(next(iter(signature.parameters)))
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = arguments.pop(name, {})
            # `def f(a, /, **extra)` takes another a among the extra ones.
            arguments |= {name: extra} if extra.keys() & arguments.keys() else extra
    return arguments
