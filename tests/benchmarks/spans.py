"""What the gate costs: a span that is none of our business, and a tool's span without the ledger's answer.

    python -m tests.benchmarks.spans [--rounds N] [--json]

Rules: processor time of one thread; blocks with the gate open and closed alternate, and what is quoted is the median of
the differences of neighbouring blocks, so that it holds where the machine's speed drifts. The ledger answers at once,
from memory: its cost is that of another benchmark. The hand-written span ends with the very attributes that the guarded
one has. It ends with an error if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import NoOpTracer

from spanledger import Config, Rule, workflow
from spanledger._guard import Guard
from spanledger.core.asking import Ask
from spanledger.core.call import Begun, Verdict
from spanledger.telemetry import gate

CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-5-mini"}
TOOL = {
    "gen_ai.operation.name": "execute_tool",
    "gen_ai.tool.name": "refund",
    "gen_ai.tool.call.id": "call_7Kx2",
    "gen_ai.tool.call.arguments": '{"order_id": "o-125", "amount": 1000}',
}
RESULT = "gen_ai.tool.call.result"
CONFIG = Config(rules=[Rule("refund", identity="arguments")])
IRRELEVANT_MAX_US, TOOL_MAX_US = 2.0, 60.0


class Answering:
    """A ledger that says "run" and takes every outcome, at once."""

    def drive(self, steps: Any, invoke: Any = None) -> Any:
        reply: Any = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as stop:
                return stop.value
            reply = self._answer(step)

    def _answer(self, step: Any) -> Any:
        if not isinstance(step, Ask):
            raise TypeError(f"{step!r} is not asked of a call that runs at once")
        if step.begins:
            return Begun(Verdict.RUN, step.item["key"], 1, step.item["attempt_id"], tool="refund", now_s=time.time())
        return {"owned": True}


class Last(SpanProcessor):
    """Keeps the last span, as an exporter would keep many."""

    span: ReadableSpan

    def on_end(self, span: ReadableSpan) -> None:
        self.span = span


@dataclass(frozen=True, slots=True)
class Found:
    """Microseconds of processor time per span, medians of the blocks.

    Attributes:
        name: What was measured.
        floor_us: Without us.
        added_us: What we add: the median of the differences, and their quartiles.
        target_us: What it may add; None where nothing was promised.
    """

    name: str
    floor_us: float
    added_us: tuple[float, float, float]
    target_us: float | None

    def text(self) -> str:
        low, median, high = self.added_us
        target = "" if self.target_us is None else f"; target: at most {self.target_us:g}"
        return f"{self.name}: {self.floor_us:.1f} µs, and {median:.2f} [{low:.2f} to {high:.2f}] µs of ours{target}"

    def data(self) -> dict[str, Any]:
        low, median, high = self.added_us
        return {"name": self.name, "floor_us": self.floor_us, "added_us": median, "quartiles_us": [low, high],
                "target_us": self.target_us}  # fmt: skip

    def missed(self) -> bool:
        return self.target_us is not None and self.added_us[1] > self.target_us


Block = Callable[[], None]


def taken_us(block: Block, spans: int) -> float:
    """Processor time of one of the spans of a block."""
    begun_ns = time.process_time_ns()
    for _ in range(spans):
        block()
    return (time.process_time_ns() - begun_ns) / spans / 1e3


def compare(name: str, floor: Block, ours: Block, *, rounds: int, spans: int, target_us: float | None) -> Found:
    """Measure both by turns: the floor with the gate open, ours with it closed."""
    guard = Guard(CONFIG, Answering(), None, None)  # type: ignore[arg-type] - nothing is awaited here
    rows = []
    for _ in range(rounds + 1):
        gate.remove()
        before = taken_us(floor, spans)
        gate.install(guard)
        between = taken_us(ours, spans)
        gate.remove()
        rows.append((before, between, taken_us(floor, spans)))
    gate.remove()
    floors = [(before + after) / 2 for before, _, after in rows[1:]]
    added = [between - (before + after) / 2 for before, between, after in rows[1:]]
    low, median, high = statistics.quantiles(added, n=4)
    return Found(name, statistics.median(floors), (low, median, high), target_us)


def irrelevant(tracer: Any) -> Block:
    """A span of a model call, as an instrumentation starts and ends it."""
    return lambda: tracer.start_span("chat gpt-5-mini", attributes=CHAT).end()


def tool_spans(provider: TracerProvider) -> tuple[Block, Block]:
    """A hand-written span, with the attributes that the guarded one ends with, and the guarded one."""
    tracer, last = provider.get_tracer("bench"), Last()
    provider.add_span_processor(last)

    def guarded() -> None:
        with tracer.start_as_current_span("execute_tool refund", attributes=TOOL) as span:
            span.set_attribute(RESULT, '{"status": "refunded"}')

    gate.install(Guard(CONFIG, Answering(), None, None))  # type: ignore[arg-type] - nothing is awaited here
    with workflow("w"):
        guarded()
    gate.remove()
    more = {name: value for name, value in last.span.attributes.items() if name not in TOOL}
    assert "spanledger.call.outcome" in more

    def by_hand() -> None:
        with tracer.start_as_current_span("execute_tool refund", attributes=TOOL) as span:
            span.set_attributes(more)

    return by_hand, guarded


def main() -> int:
    """Measure, print, and say whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", action="store_true", help="print JSON instead, a line per comparison")
    wanted = parser.parse_args()
    sdk = TracerProvider(shutdown_on_exit=False)
    chat, chat_without = irrelevant(sdk.get_tracer("bench")), irrelevant(NoOpTracer())
    by_hand, guarded = tool_spans(TracerProvider(shutdown_on_exit=False))
    rounds, found = wanted.rounds, []
    with workflow("w"):
        for name, floor, ours, spans, target_us in (
            ("a span of a model call", chat, chat, 1500, IRRELEVANT_MAX_US),
            ("the same without an SDK", chat_without, chat_without, 5000, IRRELEVANT_MAX_US),
            ("a guarded tool's span, and by hand", by_hand, guarded, 400, TOOL_MAX_US),
        ):
            found.append(compare(name, floor, ours, rounds=rounds, spans=spans, target_us=target_us))
            print(json.dumps(found[-1].data()) if wanted.json else found[-1].text(), flush=True)
    return 1 if any(one.missed() for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
