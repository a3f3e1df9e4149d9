"""The workflow on its way to other processes: W3C baggage beside the trace context.

Rules: baggage says which workflow a caller acts for, so that what both did can be found together. It comes from outside
and chooses nothing here: no scope, no tenant, no actor, unless the configuration trusts it. What is too long or no
plain text is left out, in both directions, and is nobody's error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from opentelemetry import baggage, context, propagate
from opentelemetry.context import Context

from spanledger.placing import is_fit, said
from spanledger.telemetry import semconv

HEADER_CHARS_MAX: Final = 8192
_HEADERS: Final = ("traceparent", "tracestate", "baggage")


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
    """Put what another process sent as `carrier` around a block; what cannot be read is left out."""
    texts = {name: headers.get(name) for name in _HEADERS}
    sane = {name: text for name, text in texts.items() if isinstance(text, str) and len(text) <= HEADER_CHARS_MAX}
    token = context.attach(propagate.extract(sane))
    try:
        yield
    finally:
        context.detach(token)
