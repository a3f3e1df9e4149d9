"""Spans that belong together although the trace does not say so: a replay and what ran, a request and what ran by it.

Rules: the ledger says where the other span is. A span is linked to once, and never to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.trace import Span, SpanContext, TraceFlags

from spanledger.core.asking import Asking
from spanledger.core.call import Begun
from spanledger.telemetry import semconv, trail
from spanledger.telemetry.quiet import quietly

Start = Callable[[Span, str, Mapping[str, Any]], Span]


def link(span: Span, where: Mapping[str, Any] | None, attributes: Mapping[str, Any]) -> None:
    """Link to a span that the ledger names, if it does and this is another one."""
    if not where or not where.get("trace_id") or not where.get("span_id"):
        return
    context = SpanContext(
        int(where["trace_id"], 16),
        int(where["span_id"], 16),
        is_remote=True,
        trace_flags=TraceFlags(1),
    )
    known = {span.get_span_context().span_id, *(link.context.span_id for link in getattr(span, "links", ()))}
    if context.span_id not in known:
        span.add_link(context, attributes)


@quietly
def pending(start: Start, span: Span, asking: Asking, answer: Begun) -> None:
    """Record that a person is asked, as a span of its own that is closed at once: nobody knows how long it takes.

    What runs by that consent links to it: this very span, if it waits so long, or one in another process, which is
    told by the ledger.
    """
    call = asking.call
    attributes = {
        semconv.TOOL_NAME: call.name,
        semconv.APPROVAL_ID: answer.approval_id,
        semconv.CALL_KEY: answer.key,
        semconv.VERDICT: str(answer.verdict),
        semconv.RULE: asking.terms.rule,
        semconv.AGENT_NAME: call.agent,
        semconv.ACTOR: call.actor,
    }
    request = start(span, f"approval {call.name}", {name: v for name, v in attributes.items() if v is not None})
    request.end()
    if request.get_span_context().is_valid:
        span.add_link(request.get_span_context(), {semconv.APPROVAL_ID: answer.approval_id or ""})
        where = {"approval_id": answer.approval_id}
        trail.tell("approval", request, where, key=answer.key, tenant=asking.tenant, id=asking.attempt_id)
