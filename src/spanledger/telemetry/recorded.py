"""Calls that the ledger is told of after they were made: their spans, and what goes to the ledger's trail.

Rules: nothing is decided about them, and both say so. The span is of the past: it ends now and began as long ago as the
call took. Telling is the trail's business: in the background, counted where it is lost.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from spanledger.core.asking import Asking
from spanledger.core.call import EXECUTE_TOOL, Usage
from spanledger.core.content import Capture
from spanledger.core.keys import recorded_key
from spanledger.core.money import amount_of
from spanledger.core.said import Said
from spanledger.placing import Ambient
from spanledger.telemetry import inference, record, semconv, trail
from spanledger.telemetry.decision import current_workflow
from spanledger.telemetry.quiet import quietly


@dataclass(frozen=True, slots=True)
class Made:
    """A call that was made.

    Attributes:
        asking: What would have been asked about it.
        report: What it is told by.
        usage: What a model used.
        cost: Unit → steps that it cost.
        took_s: Seconds that it took.
        result: What a tool returned.
        error: Type and message of what went wrong.
        said: What a model was asked and answered, as it may be seen; None where that is not told.
        capture: Where it is recorded.
        event: It is told in an event, too.
        budgeted: Budgets count it; else it is in none.
    """

    asking: Asking
    report: str
    usage: Usage = field(default_factory=Usage)
    cost: Mapping[str, int] = field(default_factory=dict)
    took_s: float = 0.0
    result: Any = None
    error: Mapping[str, str] | None = None
    said: Said | None = None
    capture: Capture = Capture.NO_CONTENT
    event: bool = False
    budgeted: bool = True

    @property
    def key(self) -> str:
        """Under which the ledger keeps it."""
        return recorded_key(self.report)

    def row(self) -> dict[str, Any]:
        """Return what the ledger keeps of it."""
        call = self.asking.call
        return {
            "tool": call.name,
            "operation": call.operation,
            "state": "succeeded" if self.error is None else "failed",
            "call_id": call.call_id,
            "arguments": self.asking.arguments,
            "error": self.error,
            "cost": dict(self.cost),
            "usage": self.usage.by_kind or None,
            "took_s": self.took_s,
            "budgeted": self.budgeted,
        }


def tell(made: Made, span: Span, around: Ambient | None) -> None:
    """Let the ledger know of a call.

    Args:
        made: The call.
        span: Where it is in the trace.
        around: The workflow that it was made in.
    """
    call = made.asking.call
    whose = {"agent": call.agent, "actor": call.actor, "tenant": made.asking.tenant}
    where = {"workflow_id": made.asking.identity.scope, "run_id": call.run_id}
    trail.tell("call", span, {}, around, key=made.report, call=made.row(), **whose, **where)


def show(made: Made) -> Span:
    """Make the span of a call that is over, and return it, ended."""
    call, content = made.asking.call, made.asking.content
    ended_ns = time.time_ns()
    attributes = record.start_attributes(call) | {
        semconv.RECORDED: True,
        semconv.CALL_KEY: made.key,
        semconv.WORKFLOW_ID: made.asking.identity.scope or None,
        semconv.ACTOR: call.actor,
    }
    if call.operation == EXECUTE_TOOL and call.arguments is not None:
        attributes[semconv.TOOL_CALL_ARGUMENTS] = content.for_span(call.arguments, document=True)
    if made.error is None and made.result is not None:
        attributes[semconv.TOOL_CALL_RESULT] = content.for_span(made.result)
    span = record.tracer().start_span(
        f"{call.operation} {call.name}",
        otel_context.set_value(record.OWN_SPAN, value=True),
        SpanKind.INTERNAL if call.operation == EXECUTE_TOOL else SpanKind.CLIENT,
        {name: value for name, value in attributes.items() if value is not None},
        start_time=ended_ns - int(made.took_s * 1e9),
    )
    cost = [str(amount_of(unit, steps)) for unit, steps in made.cost.items() if unit != "tokens"]
    used = inference.used(made.usage, cost=cost[0] if cost else None)
    span.set_attributes(used)
    if made.said is not None or made.event:
        inference.told(span, call, used, made.said, made.capture, event=made.event)
    if made.error is not None:
        kind = made.error["type"].removeprefix("builtins.")
        span.set_attribute(semconv.ERROR_TYPE, kind)
        span.set_status(Status(StatusCode.ERROR, kind))
    span.end(ended_ns)
    return span


@quietly
def event(name: str, detail: Mapping[str, Any], key: str | None = None) -> None:
    """Record an event of the program's own on the span around this code, and tell it.

    Args:
        name: What happened.
        detail: What there is to say; JSON that fits.
        key: Of the call that runs here and that it happened in: the span is that call's; None: the workflow's.
    """
    around = current_workflow() if key is None else None
    span = trace.get_current_span() if around is None else around.span
    attributes = {semconv.EVENT_NAME: name, semconv.EVENT_DETAIL: json.dumps(detail, ensure_ascii=False)}
    span.add_event(semconv.EVENT_EVENT, attributes)
    trail.tell("event", span, {"name": name, "detail": detail}, key=key)
