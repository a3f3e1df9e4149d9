"""The start gate: no tool span starts without a verdict, whatever becomes of the span.

Rules: a span processor never sees spans that are not sampled, of a disabled SDK, or of no SDK at all. So the
decision is taken where every span begins: `start_span` of the SDK's tracer and of the API's no-op tracer. A span
that is none of our business passes at the cost of two look-ups. A refused span is ended, so that it is exported
once, and then the refusal is raised: the `with` body never runs. A guarded span is handed out as a thin proxy that
sees how it ends. The gate proves at start that it works.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import replace
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

import wrapt
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracer, Span, StatusCode

from spanledger.core.asking import Asking
from spanledger.core.call import EXECUTE_TOOL, Begun, Call, Codec, Ended, Outcome, ScopeSource, Verdict
from spanledger.core.settling import finished
from spanledger.core.steps import admitted, replayed
from spanledger.core.values import decode, encode
from spanledger.errors import CallRefused, CallReplayed, SpanledgerError, WrapMissing
from spanledger.guard import Guard, Inside, entered, made_running
from spanledger.telemetry import record, semconv

logger = logging.getLogger("spanledger.telemetry")

_DOORS: Final = (("opentelemetry.sdk.trace", "Tracer"), ("opentelemetry.trace", "NoOpTracer"))
_TOOL_PREFIX = f"{EXECUTE_TOOL} "
_PROBE_TOOL = "spanledger.self_test"

_guard: Guard | None = None
# True while the gate itself starts a span: its decision is taken, processors need not ask again.
_passing: ContextVar[bool] = ContextVar("spanledger_passing", default=False)


class SpanCodec:
    """Results of hand-written spans: the text of `gen_ai.tool.call.result`, as JSON where it is JSON."""

    def encode(self, result: Any) -> Any:
        """Turn a result into a JSON tree."""
        return encode(result, exact=True)

    def decode(self, tree: Any, call: Call) -> Any:  # noqa: ARG002 - the call matters to other codecs
        """Turn a tree back."""
        return decode(tree)


CODEC: Final[Codec] = SpanCodec()

if TYPE_CHECKING:
    _SpanProxy = wrapt.ObjectProxy[Span]
else:  # only its stubs are generic
    _SpanProxy = wrapt.ObjectProxy


class NoEvidence(Exception):
    """The span ended with ERROR status and no exception."""


def install(guard: Guard) -> None:
    """Close the gate: from here on tool spans are decided by `guard`."""
    global _guard  # noqa: PLW0603 - one gate per process, as there is one API
    _guard = guard
    for module, cls in _DOORS:
        owner = getattr(sys.modules[module], cls)
        if not isinstance(owner.__dict__["start_span"], wrapt.FunctionWrapper):
            wrapt.wrap_function_wrapper(module, f"{cls}.start_span", _through)


def remove() -> None:
    """Open the gate and restore what it wrapped."""
    global _guard  # noqa: PLW0603 - see install
    _guard = None
    for module, cls in _DOORS:
        owner = getattr(sys.modules[module], cls)
        wrapped = owner.__dict__["start_span"]
        if isinstance(wrapped, wrapt.FunctionWrapper):
            owner.start_span = wrapped.__wrapped__


def prove() -> None:
    """Make sure a refused span does not run its body, sampled or not, with an SDK or without.

    Raises:
        WrapMissing: The gate does not hold in this process.
    """
    tracers = (NoOpTracer(), TracerProvider(shutdown_on_exit=False).get_tracer("spanledger"),
               TracerProvider(ALWAYS_OFF, shutdown_on_exit=False).get_tracer("spanledger"))  # fmt: skip
    for tracer in tracers:
        ran = True
        try:
            with tracer.start_as_current_span(_TOOL_PREFIX + _PROBE_TOOL, context=otel_context.Context()):
                pass
        except CallRefused:
            ran = False
        if ran:
            raise WrapMissing(
                f"a refused tool span would still run with {type(tracer).__module__}.{type(tracer).__name__}: this "
                "version of OpenTelemetry is not one we can guard"
            )


def passing() -> bool:
    """Tell whether the span that starts right now was decided at the gate."""
    return _passing.get()


def describe(name: str, attributes: Mapping[str, Any]) -> Call | None:
    """Read a call from the start of a span; None if it is no tool span."""
    operation = attributes.get(semconv.OPERATION_NAME)
    if operation != EXECUTE_TOOL and not (operation is None and name.startswith(_TOOL_PREFIX)):
        return None
    conversation = _text(attributes.get(semconv.CONVERSATION_ID))
    return Call(
        name=_text(attributes.get(semconv.TOOL_NAME)) or name.removeprefix(_TOOL_PREFIX),
        arguments=_arguments(attributes.get(semconv.TOOL_CALL_ARGUMENTS)),
        call_id=_text(attributes.get(semconv.TOOL_CALL_ID)),
        workflow_id=conversation,
        workflow_source=ScopeSource.CONVERSATION if conversation else ScopeSource.TRACE,
        agent=_text(attributes.get(semconv.AGENT_NAME)),
    )


def decide(guard: Guard, call: Call, span: Span) -> tuple[Asking, Begun] | Inside | None:
    """Ask the ledger about a started span.

    Returns:
        What was asked and answered. Or the inside of the call around, which stands for this one until it is told to
        leave; or None where the call cannot be described and nobody asked to guard it.

    Raises:
        SpanledgerError: The body must not run. The span has been ended.
    """
    asking: Asking | None = None
    try:
        with inside():
            asking = guard.asking(call, span=record.trace_of(span))
            left = guard.left(asking)
            if isinstance(left, Inside):
                return left
        asking = _bounded(asking)
        record.asked(span, asking)
        begun = guard.blocking.drive(admitted(asking))
        record.begun(span, begun)
        if begun.verdict is Verdict.REPLAY:
            value = replayed(asking, begun, CODEC).ended.value
            raise CallReplayed(  # noqa: TRY301 - ends the span as every other refusal does
                f"{call.name!r} succeeded before and is not run again", key=begun.key, result=value
            )
    except CallReplayed:
        record.end(span)
        raise
    except SpanledgerError as error:
        if isinstance(error, CallRefused) and asking is None and not guard.config.covers(call):
            logger.warning("a span of %s runs unguarded: %s", call.name, error)
            return None
        record.refused(span, error)
        record.end(span)
        raise
    return asking, begun


@contextlib.contextmanager
def inside() -> Iterator[None]:
    """Where the span of a guarded call is the current one, make its call the running one."""
    span = trace.get_current_span()
    with span.running() if isinstance(span, GuardedSpan) else contextlib.nullcontext():
        yield


def result_of(value: Any) -> Any:
    """Read an attribute that holds a value as JSON text, or as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def settle(guard: Guard, asked: tuple[Asking, Begun], ended: Ended) -> Outcome | None:
    """Tell the ledger how a span ended; nothing is raised after the side effect."""
    try:
        return guard.blocking.drive(finished(*asked, ended, CODEC))
    except Exception:
        logger.exception("the outcome of a span of %s could not be recorded", asked[0].call.name)
        return None


class StoodForSpan(_SpanProxy):
    """A span of a call that the call around stands for, until the span ends."""

    def __init__(self, span: Span, inside: Inside) -> None:
        super().__init__(span)
        self._self_inside: Inside | None = inside

    def __enter__(self) -> Self:
        self.__wrapped__.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._self_leave()
        self.__wrapped__.__exit__(kind, error, tb)

    def end(self, end_time: int | None = None) -> None:
        """End the span."""
        self._self_leave()
        self.__wrapped__.end(end_time)

    def _self_leave(self) -> None:
        inside, self._self_inside = self._self_inside, None
        if inside is not None:
            inside.leave()


class GuardedSpan(_SpanProxy):
    """A span that settles its call when it ends."""

    def __init__(self, span: Span, guard: Guard, asked: tuple[Asking, Begun]) -> None:
        super().__init__(span)
        self._self_guard = guard
        self._self_asked: tuple[Asking, Begun] | None = asked
        self._self_around = sys.exc_info()[1]
        self._self_left_by: BaseException | None = None
        self._self_recorded: BaseException | None = None
        self._self_failure: str | None = None
        self._self_result: Any = None
        self._self_call = made_running(*asked)
        self._self_guessed = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Make the call of this span the running one."""
        with contextlib.nullcontext() if self._self_asked is None else entered(self._self_call):
            yield

    def __enter__(self) -> Self:
        self.__wrapped__.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._self_left_by = error
        self._self_settle()
        self.__wrapped__.__exit__(kind, error, tb)

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute; the result of the tool is remembered."""
        if key == semconv.TOOL_CALL_RESULT:
            self._self_result = value
        self.__wrapped__.set_attribute(key, value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes; the result of the tool is remembered."""
        self._self_result = attributes.get(semconv.TOOL_CALL_RESULT, self._self_result)
        self.__wrapped__.set_attributes(attributes)

    def record_exception(self, exception: BaseException, *args: Any, **kwargs: Any) -> None:
        """Record an exception; it says why, where the status says that the call failed, and may have been handled."""
        self._self_recorded = exception
        self.__wrapped__.record_exception(exception, *args, **kwargs)

    def set_status(self, status: Any, description: str | None = None) -> None:
        """Set the status; ERROR means the call failed, OK that it did not."""
        code = getattr(status, "status_code", status)
        if code is StatusCode.ERROR:
            self._self_failure = description or getattr(status, "description", None) or "status ERROR"
        elif code is StatusCode.OK:
            self._self_failure = None
        self.__wrapped__.set_status(status, description)

    def end(self, end_time: int | None = None) -> None:
        """Settle the call, then end the span."""
        leaving = sys.exc_info()[1]
        if leaving is not self._self_around:
            # Cancellation, KeyboardInterrupt and GeneratorExit leave the status unset; that is no success. But somebody
            # may be handling an exception that never came through here; then it is no failure either.
            self._self_left_by = leaving
            self._self_guessed = not _came_through(leaving, sys._getframe(1))  # noqa: SLF001 - who ends the span
        self._self_settle()
        self.__wrapped__.end(end_time)

    def _self_settle(self) -> None:
        asked, self._self_asked = self._self_asked, None
        if asked is None:
            return
        error = self._self_left_by
        if error is None and self._self_failure is not None:
            error = self._self_recorded or NoEvidence(self._self_failure)
        inside = self._self_call.inside
        inside.over = True
        ended = Ended(
            None if error else result_of(self._self_result),
            error,
            doubtful=self._self_guessed or inside.doubtful,
            cost=self._self_call.cost(succeeded=error is None),
        )
        outcome = settle(self._self_guard, asked, ended)
        if outcome is not None:
            record.finished(self.__wrapped__, outcome)


def _came_through(error: BaseException | None, frame: FrameType) -> bool:
    """Tell whether an exception passed a frame, rather than being handled somewhere around it."""
    step = error.__traceback__ if error is not None else None
    while step is not None and step.tb_frame is not frame:
        step = step.tb_next
    return step is not None


def _through(wrapped: Callable[..., Span], _tracer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Span:
    guard = _guard
    name = args[0] if args else kwargs.get("name", "")
    attributes = kwargs.get("attributes") or (args[3] if len(args) > 3 else None)  # noqa: PLR2004 - its place
    if guard is None or not _may_be_tool(name, attributes):
        return _unshared(wrapped(*args, **kwargs))
    context = kwargs.get("context") or (args[1] if len(args) > 1 else None)
    call = describe(name, attributes or {})
    if call is None or (context is not None and record.OWN_SPAN in context):
        return _unshared(wrapped(*args, **kwargs))
    token = _passing.set(True)
    try:
        span = _unshared(wrapped(*args, **kwargs))
    finally:
        _passing.reset(token)
    if call.name == _PROBE_TOOL:
        record.end(span)
        raise CallRefused("the self-test's span is refused, as it should be")
    asked = decide(guard, call, span)
    if asked is None:
        return span
    # A proxy is a span to everybody but the type checker.
    return cast("Span", StoodForSpan(span, asked) if isinstance(asked, Inside) else GuardedSpan(span, guard, asked))


def _may_be_tool(name: str, attributes: Mapping[str, Any] | None) -> bool:
    if attributes and attributes.get(semconv.OPERATION_NAME) == EXECUTE_TOOL:
        return True
    return isinstance(name, str) and name.startswith(_TOOL_PREFIX)


def _unshared(span: Span) -> Span:
    # A no-op tracer hands out the current span again; its end must not settle the call around it.
    return span.__wrapped__ if isinstance(span, GuardedSpan | StoodForSpan) else span


def _bounded(asking: Asking) -> Asking:
    """On a running loop a span never waits for another worker: everything else on the loop would wait too."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asking
    return replace(asking, terms=replace(asking.terms, wait_timeout_s=0.0))


def _arguments(value: Any) -> Mapping[str, Any] | str | None:
    parsed = result_of(value)
    if parsed is None or isinstance(parsed, Mapping | str):
        return parsed
    try:
        return json.dumps(parsed)
    except TypeError:
        # No attribute of a span can be that; it says as much as none.
        return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
