"""Calls as spans.

Rules: telemetry fails open. Whatever goes wrong in here is logged and costs an attribute, never the call.
Content (arguments, results) is recorded only where the configuration asks for it. A refusal is a span with ERROR
status; a replay is a span with a link to the span that did the work. The span is current while the wrapped
function runs and not before, so that our own questions to the ledger have no children in the trace.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from spanledger._guard import ambient
from spanledger.core.asking import Asking, Traced
from spanledger.core.call import EXECUTE_TOOL, INVOKE_AGENT, Begun, Call, Outcome, Verdict
from spanledger.core.content import NOTHING, Capture, Content
from spanledger.core.grants import Authorization
from spanledger.core.money import amount_of
from spanledger.core.refusals import WRITTEN_BY_BEGIN, verdict_of
from spanledger.errors import SpanledgerError
from spanledger.telemetry import attributes, events, instruments, linking, metrics, semconv, trail
from spanledger.telemetry.proposals import switched_on, with_proposed
from spanledger.telemetry.quiet import failed_quietly, quietly

logger = logging.getLogger("spanledger.telemetry")

SCOPE = "spanledger"
# A span we open ourselves is not asked about by the gate: whoever opened it asks.
OWN_SPAN = otel_context.create_key("spanledger-own-span")
_START: Final = "telemetry.record.start"
_NOWHERE: Final = Context({OWN_SPAN: True})

# By these a program is told to stop; what the span is about has not gone wrong.
INTERRUPTIONS = (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError)


def tracer() -> trace.Tracer:
    """Return our tracer of the provider that is installed now."""
    return _tracer_of(trace.get_tracer_provider())


@functools.lru_cache(maxsize=16)
def _tracer_of(provider: trace.TracerProvider) -> trace.Tracer:
    # Looked up for every call, and some providers search for theirs.
    return provider.get_tracer(SCOPE)


def start(call: Call, around: Context | None = None) -> Span:
    """Start the span of a call; it is not made current. What the call is made with is not on it: see `called`.

    Args:
        call: The call.
        around: The current context, where the caller has looked it up.
    """
    here = otel_context.get_current() if around is None else around
    context = Context({**here, OWN_SPAN: True}) if here else _NOWHERE
    try:
        name, kind, attributes = call.memo.get(_START) or _start_of(call)
        # Never the one that is kept: a sampler may change what it is given.
        attributes = attributes.copy() if ambient() is None else attributes | trail.conversation()
        return _tracer_of(trace.get_tracer_provider()).start_span(name, context, kind, attributes)
    except Exception:
        logger.exception("no span for %s; the call is not affected", call.name)
        return trace.INVALID_SPAN


@quietly
def described(span: Span, call: Call) -> None:
    """Say on a span that a library has made of a call what `start` would say on a new one."""
    span.set_attributes(start_attributes(call))


@quietly
def called(span: Span, call: Call, content: Content) -> None:
    """Record what a tool is called with, where somebody asks for that: once it is known what grants redact."""
    if (
        call.operation != EXECUTE_TOOL
        or call.arguments is None
        or not (content.capture.on_spans or content.capture.on_events)
    ):
        return
    _set(span, {semconv.TOOL_CALL_ARGUMENTS: content.for_span(call.arguments, document=True)})
    if content.capture.on_events:
        called = {semconv.TOOL_NAME: call.name, semconv.TOOL_CALL_ID: call.call_id}
        arguments = content.for_event(call.arguments, document=True)
        events.inform(semconv.EVENT_CONTENT, called | {semconv.TOOL_CALL_ARGUMENTS: arguments}, trace_of(span))


def start_attributes(call: Call) -> dict[str, Any]:
    """Say what is known of a call before it runs."""
    _name, _kind, said = call.memo.get(_START) or _start_of(call)
    return said.copy() if ambient() is None else said | trail.conversation()


def _start_of(call: Call) -> tuple[str, SpanKind, dict[str, Any]]:
    """Say with which name, kind and attributes the span of a call starts, wherever the call is made."""
    said: dict[str, Any] = {semconv.OPERATION_NAME: call.operation}
    if call.operation == EXECUTE_TOOL:
        said |= {semconv.TOOL_NAME: call.name, semconv.TOOL_TYPE: "function"}
        if call.call_id is not None:
            said[semconv.TOOL_CALL_ID] = call.call_id
    elif call.operation != INVOKE_AGENT:
        said[semconv.REQUEST_MODEL] = call.name
    if call.agent is not None:
        said[semconv.AGENT_NAME] = call.agent
    for name, value in call.attributes.items():
        if value is not None:
            said[name] = value
    kind = SpanKind.INTERNAL if call.operation in (EXECUTE_TOOL, INVOKE_AGENT) else SpanKind.CLIENT
    start = call.memo[_START] = f"{call.operation} {call.name}", kind, said
    return start


def _inside(span: Span, name: str, said: Mapping[str, Any]) -> Span:
    """Start a span of ours inside another."""
    context = trace.set_span_in_context(span, otel_context.set_value(OWN_SPAN, value=True))
    return tracer().start_span(name, context, attributes=said)


@contextlib.contextmanager
def current(span: Span) -> Iterator[None]:
    """Make a span current without ending it or recording what leaves the block."""
    token = otel_context.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        _detach(token)


@contextlib.contextmanager
def observed(span: Span) -> Iterator[None]:
    """Make a span current and record what is raised inside."""
    try:
        with current(span):
            yield
    except BaseException as error:
        failed(span, error)
        raise


@contextlib.contextmanager
def ending(span: Span) -> Iterator[Span]:
    """End a span when the block is left; it says so where the block was interrupted, while it waited for example."""
    try:
        yield span
    except INTERRUPTIONS as error:
        interrupted(span, error)
        raise
    finally:
        end(span)


def trace_of(span: Span) -> Traced | None:
    """Say where a span is, and what of its call is recorded in it at once; None where there is no trace."""
    try:
        context = span.get_span_context()
        if not context.is_valid:
            return None
        pending = functools.partial(linking.pending, _inside, span)
        return Traced(f"{context.trace_id:032x}", f"{context.span_id:016x}", pending)
    except Exception:
        logger.exception("a span without a context; the call is not affected")
        return None


@quietly
def asked(span: Span, asking: Asking) -> None:
    """Record how the call was identified."""
    _set(span, attributes.of_asking(asking))


@quietly
def begun(span: Span, answer: Begun, asking: Asking | None = None) -> None:
    """Record the ledger's answer.

    Args:
        span: The call's.
        answer: What the ledger has said.
        asking: What it was asked, where the span does not say so yet.
    """
    said = attributes.of_answer(answer)
    _set(span, said if asking is None else attributes.of_asking(asking) | said)
    for budget in answer.budgets:
        if "soft" in budget:
            _past_soft_limit(span, budget)
    if answer.details:
        linking.link(span, answer.details.get("requested_in"), {semconv.APPROVAL_ID: answer.approval_id})
    if answer.verdict is Verdict.REPLAY:
        linking.link(span, answer.details.get("original"), {semconv.CALL_KEY: answer.key})
        told = {"attempt": answer.attempt, "original": answer.details.get("original")}
        trail.tell("replay", span, told, key=answer.key, tenant=answer.tenant)


@quietly
def permission(span: Span, answer: Authorization) -> None:
    """Record what a program was told that asked for a permission."""
    decided = None if answer.grant is None else [attributes.grant_named(answer.grant, answer.version or 0)]
    said: dict[str, Any] = {
        semconv.PERMISSION: answer.permission,
        semconv.PERMITTED: answer.allowed,
        semconv.GRANTS: decided,
        semconv.REASON: answer.reason,
    }
    span.add_event(semconv.EVENT_PERMISSION, {name: v for name, v in said.items() if v is not None})


def _past_soft_limit(span: Span, budget: Mapping[str, Any]) -> None:
    name, unit = budget["name"], budget["unit"]
    span.add_event(
        semconv.EVENT_SOFT_LIMIT,
        {
            semconv.BUDGET_NAME: name,
            semconv.BUDGET_SOFT_LIMIT: str(amount_of(unit, budget["soft"])),
            semconv.BUDGET_REMAINING: str(amount_of(unit, budget["remaining"])),
        },
    )
    metrics.count(instruments.SOFT_LIMITS, {semconv.BUDGET_NAME: name})


@quietly
def finished(span: Span, outcome: Outcome, content: Content = NOTHING) -> None:
    """Record how the call ended; its result where and as far as `content` says."""
    ended = outcome.ended
    _set(span, attributes.of_outcome(outcome))
    if ended.error is None and content.capture is not Capture.NO_CONTENT:
        _returned(span, outcome, content)
    if ended.paused and outcome.recorded != "unknown":
        return
    if ended.failure is not None:
        said = content.words(ended.failure)[:500] if content.capture.on_spans else None
        span.set_status(Status(StatusCode.ERROR, said or "the tool said that it failed"))
        span.set_attribute(semconv.ERROR_TYPE, "tool_error")
    elif ended.error is not None:
        failed(span, ended.error)


def _returned(span: Span, outcome: Outcome, content: Content) -> None:
    value = outcome.ended.value
    if (text := content.for_span(value)) is not None:
        span.set_attribute(semconv.TOOL_CALL_RESULT, text)
    if (text := content.for_event(value)) is not None:
        returned = {semconv.TOOL_NAME: outcome.begun.tool, semconv.CALL_KEY: outcome.begun.key}
        events.inform(semconv.EVENT_CONTENT, returned | {semconv.TOOL_CALL_RESULT: text}, trace_of(span))


@quietly
def failed(span: Span, error: BaseException) -> None:
    """Record that the wrapped function raised."""
    span.set_attribute(semconv.ERROR_TYPE, type_of(error))
    status = getattr(error, "status_code", None)
    if type(status) is int:
        span.set_attribute(semconv.HTTP_STATUS_CODE, status)
    span.set_status(Status(StatusCode.ERROR, type(error).__name__))


@quietly
def interrupted(span: Span, error: BaseException) -> None:
    """Record that what the span is about was cancelled, interrupted or closed early, which is no error."""
    span.set_attribute(semconv.ERROR_TYPE, type_of(error))


def type_of(error: BaseException) -> str:
    """Name the class of an error."""
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


@quietly
def refused(span: Span, error: SpanledgerError, asking: Asking | None = None, *, suspended: bool = False) -> None:
    """Record that the call was not run.

    Args:
        span: The call's.
        error: Why not.
        asking: What the ledger was asked, where the span does not say so yet.
        suspended: The run was only suspended by it, which is no error.
    """
    verdict, reason = verdict_of(error), str(error)
    said = {} if asking is None else attributes.of_asking(asking)
    _set(span, said | {semconv.VERDICT: verdict, semconv.REASON: reason} | attributes.of_refusal(error))
    if suspended:
        return
    span.set_attribute(semconv.ERROR_TYPE, type(error).__name__)
    span.set_status(Status(StatusCode.ERROR, reason))
    # One without a key was never begun: its delegation cannot be read.
    if not isinstance(error, WRITTEN_BY_BEGIN) or error.key is None:
        told = {"verdict": verdict, "reason": reason, "error": type(error).__name__}
        trail.tell("refused", span, told, key=error.key)


def known(span: Span, attributes: Mapping[str, Any]) -> None:
    """Record what is known of a call; nothing of it is None."""
    # Of every call, so not by way of `quietly`.
    try:
        span.set_attributes(with_proposed(attributes) if switched_on() else attributes)
    except Exception as error:  # noqa: BLE001 - logged
        failed_quietly(known, error)


def end(span: Span) -> None:
    """End a span."""
    try:
        span.end()
    except Exception as error:  # noqa: BLE001 - logged
        failed_quietly(end, error)


def _set(span: Span, said: Mapping[str, Any]) -> None:
    shown = with_proposed(said)
    if None in shown.values():
        shown = {name: value for name, value in shown.items() if value is not None}
    span.set_attributes(shown)


def _detach(token: Any) -> None:
    with contextlib.suppress(Exception):
        otel_context.detach(token)
