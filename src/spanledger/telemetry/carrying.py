"""The workflow and a delegation on their way to other processes, beside the trace context.

Rules: baggage, as W3C writes it, says which workflow a caller acts for, so that what both did can be found together. It
comes from outside and chooses nothing here: no scope, no tenant, no actor, unless the configuration trusts it. What is
too long or no plain text is left out, in both directions, and is nobody's error. In which form a trace travels,
OpenTelemetry's propagators say (`OTEL_PROPAGATORS`). A delegation is the opposite: its token decides what may be done
for whoever sent it. It goes in a header of its own, only where somebody says so, and one that cannot be read lets
nothing be done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from opentelemetry import baggage, context, propagate, trace
from opentelemetry.context import Context

from spanledger import acting
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


def carrier(token: str | None = None) -> dict[str, str]:
    """Return what is around this code as headers, for another process: trace context, baggage, and a delegation.

    Args:
        token: The delegation that its receiver shall act under; None: the one that `sending` says, or none.

    Raises:
        ConfigError: That is no token.
    """
    headers: dict[str, str] = {}
    propagate.inject(headers)
    sends = acting.around().sends if token is None else acting.checked(token)
    return headers if sends is None else headers | {acting.HEADER: sends}


@contextlib.contextmanager
def carried(headers: Mapping[str, Any]) -> Iterator[None]:
    """Put what another process sent as `carrier` around a block.

    A trace or baggage that cannot be read is left out. A span of the very trace that was sent is nearer than the
    sender's, and stays the current one. Under a delegation that was sent, calls inside are decided; where that cannot
    be read or is not in force, they are refused with `NotAuthorized`, which says why.

    Args:
        headers: The headers of a request, or what else carries them.
    """
    under = acting.received(headers)
    with contextlib.nullcontext() if under is None else acting.acting(under), _within(headers):
        yield


@contextlib.contextmanager
def _within(headers: Mapping[str, Any]) -> Iterator[None]:
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
