"""Whatever any test sees exported is held against the conventions: every exporter and receiver of the tests is watched.

Rules: what is ours is what a tracer of ours sent, and every name in our namespace, whoever sent it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from spanledger.telemetry import _declared
from spanledger.testing import otlp

SCOPE = "spanledger"
PREFIX = "spanledger."

undocumented: set[str] = set()


def strays(scope: str, attributes: Iterable[str], events: Iterable[tuple[str, Iterable[str]]] = ()) -> Iterator[str]:
    """What a span carries that is ours and declared nowhere."""
    for name, of_event in events:
        if _ours(scope, name) and name not in _declared.EVENTS and name != "exception":
            yield f"event {name}"
        declared = _declared.EVENTS[name].attributes if name in _declared.EVENTS else None
        if declared is not None:
            yield from (f"attribute {key} of event {name}" for key in of_event if key not in declared)
    yield from (f"attribute {key}" for key in attributes if _ours(scope, key) and key not in _declared.ATTRIBUTES)


def watch() -> None:
    """Begin to look at what is exported, in this process for good."""
    export, received = InMemorySpanExporter.export, otlp._spans

    @functools.wraps(export)
    def watched_export(self: InMemorySpanExporter, spans: Any) -> Any:
        for span in spans:
            scope = span.instrumentation_scope.name if span.instrumentation_scope else ""
            _look(scope, span.attributes, [(e.name, e.attributes or {}) for e in span.events], span.links)
        return export(self, spans)

    @functools.wraps(received)
    def watched_received(body: bytes) -> list[otlp.ReceivedSpan]:
        spans = received(body)
        for span in spans:
            _look(span.scope, span.attributes, span.events, ())
        return spans

    InMemorySpanExporter.export, otlp._spans = watched_export, watched_received  # type: ignore[method-assign]


def _look(
    scope: str, attributes: Mapping[str, Any] | None, events: Iterable[tuple[str, Any]], links: Iterable[Any]
) -> None:
    undocumented.update(strays(scope, attributes or {}, events))
    for link in links:
        undocumented.update(strays(scope, link.attributes or {}))


def _ours(scope: str, name: str) -> bool:
    return name.startswith(PREFIX) or scope == SCOPE
