"""Whatever any test sees exported is held against the conventions: every exporter and receiver of the tests is watched.

Rules: what is ours is what a tracer of ours sent, and every name in our namespace, whoever sent it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from spanledger.telemetry import _declared
from spanledger.testing import otlp

SCOPE = "spanledger"
PREFIX = "spanledger."
# What a client or another instrumentation writes on a span of ours that was handed out to it.
OTHERS = re.compile(r"(anthropic|http|url|openinference|llm|input|output|metadata)\..*|gen_ai\.output\.type")

undocumented: set[str] = set()


def strays(scope: str, attributes: Iterable[str], events: Iterable[tuple[str, Iterable[str]]] = ()) -> Iterator[str]:
    """What a span carries that is ours and declared nowhere."""
    for name, of_event in events:
        if _ours(scope, name) and name not in _declared.EVENTS and name != "exception":
            yield f"event {name}"
        declared = _declared.EVENTS[name].attributes if name in _declared.EVENTS else None
        if declared is not None:
            yield from (f"attribute {key} of event {name}" for key in of_event if key not in declared)
    unknown = (key for key in attributes if _ours(scope, key) and key not in _declared.ATTRIBUTES)
    yield from (f"attribute {key}" for key in unknown if not OTHERS.fullmatch(key))


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

    _watch_metrics_and_logs()
    InMemorySpanExporter.export, otlp._spans = watched_export, watched_received  # type: ignore[method-assign]


def strays_of_metric(name: str, labels: Iterable[str]) -> Iterator[str]:
    """What a metric of ours is or carries that is declared nowhere."""
    if name not in _declared.METRICS:
        yield f"metric {name}"
    else:
        yield from (f"label {key} of {name}" for key in labels if key not in _declared.METRICS[name].attributes)


def _watch_metrics_and_logs() -> None:
    read, export = InMemoryMetricReader.get_metrics_data, InMemoryLogRecordExporter.export

    @functools.wraps(read)
    def watched_read(self: InMemoryMetricReader) -> Any:
        data = read(self)
        for resource in data.resource_metrics if data else ():
            for group in resource.scope_metrics:
                for metric in group.metrics if group.scope.name == SCOPE else ():
                    for point in metric.data.data_points:
                        undocumented.update(strays_of_metric(metric.name, point.attributes or {}))
        return data

    @functools.wraps(export)
    def watched_export(self: InMemoryLogRecordExporter, batch: Any) -> Any:
        for data in batch:
            scope = data.instrumentation_scope.name
            event = data.log_record.event_name
            if scope == SCOPE:
                undocumented.update(strays(scope, (), [(event or "(none)", data.log_record.attributes or {})]))
        return export(self, batch)

    InMemoryMetricReader.get_metrics_data = watched_read  # type: ignore[method-assign]
    InMemoryLogRecordExporter.export = watched_export  # type: ignore[method-assign]


def _look(
    scope: str, attributes: Mapping[str, Any] | None, events: Iterable[tuple[str, Any]], links: Iterable[Any]
) -> None:
    undocumented.update(strays(scope, attributes or {}, events))
    for link in links:
        undocumented.update(strays(scope, link.attributes or {}))


def _ours(scope: str, name: str) -> bool:
    return name.startswith(PREFIX) or scope == SCOPE
