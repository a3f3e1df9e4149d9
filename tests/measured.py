"""What this process measures, for a test to look at."""

from __future__ import annotations

from typing import Any

from opentelemetry import _logs as logs
from opentelemetry import metrics
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader


class Measured:
    """What this process has measured since it was last looked at."""

    def __init__(self) -> None:
        deltas = {Counter: AggregationTemporality.DELTA, Histogram: AggregationTemporality.DELTA}
        self.reader = InMemoryMetricReader(deltas)
        self.exporter = InMemoryLogRecordExporter()
        metrics.set_meter_provider(MeterProvider([self.reader], shutdown_on_exit=False))
        provider = LoggerProvider(shutdown_on_exit=False)
        provider.add_log_record_processor(SimpleLogRecordProcessor(self.exporter))
        logs.set_logger_provider(provider)

    def forget(self) -> None:
        self.reader.get_metrics_data()
        self.exporter.clear()

    def points(self) -> dict[str, list[tuple[dict[str, Any], Any]]]:
        """Name → labels and data point of each series."""
        data = self.reader.get_metrics_data()
        found: dict[str, list[tuple[dict[str, Any], Any]]] = {}
        for resource in data.resource_metrics if data else ():
            for group in resource.scope_metrics:
                for metric in group.metrics if group.scope.name == "spanledger" else ():
                    found[metric.name] = [(dict(p.attributes), p) for p in metric.data.data_points]
        return found

    def events(self) -> list[Any]:
        return [data.log_record for data in self.exporter.get_finished_logs()]


def by(points: list[tuple[dict[str, Any], Any]], label: str) -> dict[Any, Any]:
    return {labels.get(label): point.value for labels, point in points}
