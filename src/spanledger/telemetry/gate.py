"""The start gate: no tool span starts without a verdict, whatever becomes of the span.

Rules: a span processor never sees spans that are not sampled, of a disabled SDK, of another provider, or of no SDK at
all. So the decision is taken where every span begins: at the doors of all classes of tracers. A refused span is ended,
so that it is exported once, and then the refusal is raised: the `with` body never runs. A guarded span is handed out as
a thin proxy that sees how it ends. What has passed a door carries a mark in its context, so that it is decided once,
whatever doors and processors it meets and in whatever thread. The gate proves at start that it works, on the provider
that is installed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NoOpTracer, Span

from spanledger._guard import Guard
from spanledger._inside import Inside
from spanledger.core.asking import Asking
from spanledger.core.call import Begun, Call, Verdict
from spanledger.core.obliging import also
from spanledger.core.steps import admitted, replayed
from spanledger.core.values import NOT_SHOWN
from spanledger.errors import (
    CallRefused,
    CallReplayed,
    ConfigError,
    ResultNotKept,
    SpanledgerError,
    WrapMissing,
)
from spanledger.telemetry import record, scopes
from spanledger.telemetry.doors import Doors, Start
from spanledger.telemetry.reading import TOOL_PREFIX, describe
from spanledger.telemetry.redacting import RedactingSpan, hide, redacted
from spanledger.telemetry.scopes import Scope
from spanledger.telemetry.spans import CODEC, GuardedSpan, StoodForSpan, on_loop

logger = logging.getLogger("spanledger.telemetry")

_PROBE: Final = f"{TOOL_PREFIX}spanledger.self_test"

_NOWHERE: Final[AbstractContextManager[None]] = contextlib.nullcontext()

_guard: Guard | None = None
# So begin the names of spans that libraries make themselves of calls that are wrapped, and so decided there.
_own_spans: tuple[str, ...] = ()


def guard() -> Guard | None:
    """Return who decides; None while the gate is open."""
    return _guard


def install(guard: Guard) -> None:
    """Close the gate: from here on tool spans are decided by `guard`.

    Raises:
        ConfigError: Another configuration decides already.
    """
    global _guard  # noqa: PLW0603 - one gate per process, as there is one API
    if _guard is not None and _guard.config != guard.config:
        raise ConfigError(
            "the spans of this process are guarded by another configuration already: GuardrailSpanProcessor() without "
            "one uses it, spanledger.uninstrument() takes it off"
        )
    _guard = guard
    _DOORS.close()


def remove() -> None:
    """Open the gate and put back what was there."""
    global _guard  # noqa: PLW0603 - see install
    _guard = None
    _DOORS.open()


def leave(own_spans: Iterable[str]) -> None:
    """Decide no spans of such a scope, name or attribute: libraries make them of wrapped calls."""
    global _own_spans  # noqa: PLW0603 - see install
    _own_spans = tuple(own_spans)


@contextlib.contextmanager
def spanned(call: Call) -> Iterator[Span]:
    """Make the span of a call, as `record.start` does; where its library has made one already, that is the one."""
    made = trace.get_current_span()
    attributes = getattr(made, "attributes", None) or {}
    about = describe("", attributes)
    if about is None or about.name != call.name or not _is_own(made.name, attributes):  # type: ignore[attr-defined]
        with record.ending(record.start(call)) as span:
            yield span
        return
    record.described(made, call)
    yield made


def is_ours(span: Span) -> bool:
    """Tell whether `spanned` has made a span itself; one of a library is the current one."""
    return span is not trace.get_current_span() or not span.is_recording()


def prove() -> None:
    """Make sure a refused span does not run its body: of the installed provider, of the SDK and of the API alone.

    Raises:
        WrapMissing: The gate does not hold in this process.
    """
    sdk = TracerProvider(shutdown_on_exit=False)
    for tracer in (NoOpTracer(), sdk.get_tracer(record.SCOPE), record.tracer()):
        ran = True
        try:
            with tracer.start_as_current_span(_PROBE):
                pass
        except CallRefused:
            ran = False
        if ran:
            raise WrapMissing(
                f"a refused tool span would still run with {type(tracer).__module__}.{type(tracer).__name__}: it does "
                "not begin spans where they can be refused, so this process cannot be guarded with it"
            )


def decide(guard: Guard, call: Call, span: Span) -> tuple[Asking, Begun] | Inside | None:
    """Ask the ledger about a started span.

    Returns:
        What was asked and answered. Or the inside of the call around, which stands for this one until it is told to
        leave; or None where the call is not the span's to decide, or is how the call around reaches its server.

    Raises:
        SpanledgerError: The body must not run. The span has been ended. For spans of other instrumentations it is the
            exception that stops them, caused by ours.
    """
    scope = scopes.scope_of(span)
    if not scopes.is_ours_to_decide(scope):
        return None
    asking: Asking | None = None
    try:
        with inside():
            if guard.sends(call):
                return None
            asking = guard.asking(call, span=record.trace_of(span))
            left = guard.left(asking)
            if isinstance(left, Inside):
                return left
        begun = _answer(guard, asking, span)
        record.begun(span, begun, asking)
        if begun.verdict is Verdict.REPLAY:
            raise _replay(asking, begun, scope)
    except SpanledgerError as error:
        if error._redact:  # noqa: SLF001 - our own class
            hide(span, also(guard.config.content(call), error._redact, call.arguments).redactor)  # noqa: SLF001
        if not isinstance(error, CallReplayed):
            record.refused(span, error, asking)
        record.end(span)
        fitting = scopes.fitting(error, scope, tell=guard.config.terms(call).on_refusal == "tell")
        if fitting is error:
            raise
        raise fitting from error
    return asking, begun


def _answer(guard: Guard, asking: Asking, span: Span) -> Begun:
    try:
        return guard.blocking.drive(admitted(asking))
    except record.INTERRUPTIONS as error:
        # While it waited: nothing has run, and whoever opened the span is never handed it.
        record.asked(span, asking)
        record.interrupted(span, error)
        record.end(span)
        raise


def _replay(asking: Asking, begun: Begun, scope: Scope) -> CallReplayed:
    """Make the error that carries the recorded result; None where no span has shown it and nobody is given it.

    Raises:
        ResultNotKept: The result would have to be given back.
    """
    result = replayed(asking, begun, CODEC).ended.value
    if result is NOT_SHOWN and scope.gives_back:
        asking.not_done()
        raise ResultNotKept(
            f"{asking.call.name!r} succeeded before, and no span has shown its result; it is not run again",
            key=begun.key,
        )
    result = None if result is NOT_SHOWN else result
    return CallReplayed(f"{asking.call.name!r} succeeded before and is not run again", key=begun.key, result=result)


def inside() -> AbstractContextManager[None]:
    """Where the span of a guarded call is the current one, make its call the running one."""
    span: Any = trace.get_current_span()
    # By its type, as in `unshared`.
    return span.running() if type(span) is GuardedSpan else _NOWHERE


def _through(start: Start, name: str, context: Context | None, attributes: Any) -> Span:
    guard = _guard
    call = None if guard is None else describe(name, attributes or {}, waits=not on_loop())
    if guard is None or call is None or (context is not None and record.OWN_SPAN in context):
        return start(context, attributes)
    if name == _PROBE:
        # Before there is a span: nobody's backend is to show our self-test.
        raise CallRefused("the self-test's span is refused, as it should be")
    redactor = guard.config.content(call).redactor
    seen = redacted(redactor, attributes) if redactor.redact else attributes
    span = start(otel_context.set_value(record.OWN_SPAN, value=True, context=context), seen)
    own = bool(_own_spans) and (_is_own(name, attributes or {}) or scopes.is_of(span, _own_spans))
    asked = None if own else decide(guard, call, span)
    # A proxy is a span to everybody but the type checker.
    proxy: Any = RedactingSpan(span, redactor) if redactor.redact else span
    if asked is not None:
        proxy = StoodForSpan(proxy, asked) if isinstance(asked, Inside) else GuardedSpan(proxy, guard, asked)
    return proxy  # type: ignore[no-any-return]


def _is_own(name: str, attributes: Mapping[str, Any]) -> bool:
    return bool(_own_spans) and (name.startswith(_own_spans) or any(mark in attributes for mark in _own_spans))


_DOORS: Final = Doors(_through)
