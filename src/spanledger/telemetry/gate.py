"""The start gate: no tool span starts without a verdict, whatever becomes of the span.

Rules: a span processor never sees spans that are not sampled, of a disabled SDK, or of no SDK at all. So the
decision is taken where every span begins: `start_span` of the SDK's tracer and of the API's no-op tracer. A span
that is none of our business passes at the cost of two look-ups. A refused span is ended, so that it is exported
once, and then the refusal is raised: the `with` body never runs. A guarded span is handed out as a thin proxy that
sees how it ends. The gate proves at start that it works.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Final, cast

import wrapt
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracer, Span

from spanledger.core.asking import Asking
from spanledger.core.call import Begun, Call, Verdict
from spanledger.core.steps import admitted, replayed
from spanledger.errors import CallRefused, CallReplayed, SpanledgerError, WrapMissing
from spanledger.guard import Guard, Inside
from spanledger.telemetry import record
from spanledger.telemetry.reading import TOOL_PREFIX, describe, may_be_tool
from spanledger.telemetry.spans import CODEC, GuardedSpan, StoodForSpan, on_loop, unshared

logger = logging.getLogger("spanledger.telemetry")

_DOORS: Final = (("opentelemetry.sdk.trace", "Tracer"), ("opentelemetry.trace", "NoOpTracer"))
_PROBE_TOOL = "spanledger.self_test"

_guard: Guard | None = None
# True while the gate itself starts a span: its decision is taken, processors need not ask again.
_passing: ContextVar[bool] = ContextVar("spanledger_passing", default=False)


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
            with tracer.start_as_current_span(TOOL_PREFIX + _PROBE_TOOL, context=otel_context.Context()):
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


def _through(wrapped: Callable[..., Span], _tracer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Span:
    guard = _guard
    name = args[0] if args else kwargs.get("name", "")
    attributes = kwargs.get("attributes") or (args[3] if len(args) > 3 else None)  # noqa: PLR2004 - its place
    if guard is None or not may_be_tool(name, attributes):
        return unshared(wrapped(*args, **kwargs))
    context = kwargs.get("context") or (args[1] if len(args) > 1 else None)
    call = describe(name, attributes or {})
    if call is None or (context is not None and record.OWN_SPAN in context):
        return unshared(wrapped(*args, **kwargs))
    token = _passing.set(True)
    try:
        span = unshared(wrapped(*args, **kwargs))
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


def _bounded(asking: Asking) -> Asking:
    """On a running loop a span never waits for another worker: everything else on the loop would wait too."""
    return replace(asking, terms=replace(asking.terms, wait_timeout_s=0.0)) if on_loop() else asking
