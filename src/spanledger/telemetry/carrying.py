"""The workflow on its way to other processes: W3C baggage beside the trace context.

Rules: baggage says which workflow a caller acts for, so that what both did can be found together. It comes from outside
and chooses nothing here: no scope, no tenant, no actor, unless the configuration trusts it. What is too long or no
plain text is left out, in both directions, and is nobody's error. In which form a trace travels, OpenTelemetry's
propagators say (`OTEL_PROPAGATORS`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from opentelemetry import baggage, context, propagate, trace
from opentelemetry.context import Context

from spanledger.placing import is_fit, said
from spanledger.telemetry import semconv

HEADER_CHARS_MAX: Final = 8192


def with_workflow(within: Context, workflow_id: str) -> Context:
    """Return a context that says to whoever is called in it which workflow they are called for."""
    if is_fit(workflow_id):
        return baggage.set_baggage(semconv.WORKFLOW_ID, workflow_id, within)
    return baggage.remove_baggage(semconv.WORKFLOW_ID, within)


def caller() -> str | None:
    """Return the workflow that whoever called says they act for."""
    return said(semconv.WORKFLOW_ID)


def carrier() -> dict[str, str]:
    """Return what is around this code as headers, for another process: trace context and baggage."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


@contextlib.contextmanager
def carried(headers: Mapping[str, Any]) -> Iterator[None]:
    """Put what another process sent as `carrier` around a block; what cannot be read is left out.

    A span of the very trace that was sent is nearer than the sender's, and stays the current one.
    """
    texts = {name: headers.get(name) for name in propagate.get_global_textmap().fields}
    sane = {name: text for name, text in texts.items() if isinstance(text, str) and len(text) <= HEADER_CHARS_MAX}
    here = trace.get_current_span()
    sent = propagate.extract(sane, context.get_current())
    if trace.get_current_span(sent).get_span_context().trace_id == here.get_span_context().trace_id:
        sent = trace.set_span_in_context(here, sent)
    token = context.attach(sent)
    try:
        yield
    finally:
        context.detach(token)
