"""Spans as people write them by hand, on every kind of tracer, and the ways to leave them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import NoOpTracer, NoOpTracerProvider

from spanledger import (
    Ledger,
    Rule,
)

NAME = "execute_tool refund"
BY_ARGUMENTS = Rule("refund", identity="arguments")


def attributes(order_id: str = "o-1", **more: Any) -> dict[str, Any]:
    """What a hand-written span of a refund starts with."""
    return {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "refund",
        "gen_ai.tool.call.arguments": json.dumps({"order_id": order_id}),
        **more,
    }


class Exporting:
    """A provider of the test's own, and what it exports."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())


def state_of(ledger: Ledger) -> str:
    """How the ledger remembers the only call."""
    (row,) = ledger.calls()
    return row["state"]


TRACERS: dict[str, Callable[[], Any]] = {
    "sampled": lambda: Exporting().tracer,
    "always off": lambda: Exporting(ALWAYS_OFF).tracer,
    "ratio 0": lambda: Exporting(ParentBased(TraceIdRatioBased(0))).tracer,
    "no SDK": NoOpTracer,
    "no provider": lambda: NoOpTracerProvider().get_tracer("test"),
}


@contextmanager
def raising(error: BaseException) -> Iterator[None]:
    """Expect this very error."""
    with pytest.raises(type(error)) as caught:
        yield
    assert caught.value is error


ENDS = [
    (ValueError("no"), "failed"),
    (TimeoutError("?"), "unknown"),
    (KeyboardInterrupt(), "unknown"),
    (asyncio.CancelledError(), "unknown"),
    (GeneratorExit(), "unknown"),
]
