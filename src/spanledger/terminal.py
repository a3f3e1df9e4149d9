"""Span trees and ledger rows for a person at a terminal.

Rules: plain text, at most 100 columns; colour only where the terminal takes it. What is shown was received by the
telemetry backend or read from the ledger; what was lost with a killed process is shown as lost.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from spanledger.telemetry import semconv
from spanledger.testing import ReceivedSpan

WIDTH = 100
_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_VERDICT_COLOURS = {"run": "green", "replay": "yellow", "succeeded": "green", "refused": "red", "unknown": "red"}


def paint(text: str, colour: str) -> str:
    """Colour a text where the terminal takes it."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def tree(spans: Sequence[ReceivedSpan]) -> Iterator[str]:
    """Draw the spans of some traces, one tree per trace, in order of time."""
    numbers = {span.span_id: number for number, span in enumerate(_by_time(spans), start=1)}
    for trace_id in dict.fromkeys(span.trace_id for span in _by_time(spans)):
        of_trace = [span for span in spans if span.trace_id == trace_id]
        known = {span.span_id for span in of_trace}
        roots = [span for span in of_trace if span.parent_span_id not in known]
        lost = any(span.parent_span_id for span in roots)
        yield paint(f"trace {trace_id[:8]}", "dim")
        if lost:
            yield paint("    invoke_agent support        lost with the killed process", "dim")
        for root in _by_time(roots):
            yield from _branch(root, of_trace, numbers, 2 if lost else 1)


def _branch(span: ReceivedSpan, spans: Sequence[ReceivedSpan], numbers: Mapping[str, int], depth: int) -> Iterator[str]:
    label = f"{numbers[span.span_id]:>2}  {'  ' * (depth - 1)}{span.name}"
    yield f"{label:<36}{_told(span, numbers)}".rstrip()
    if semconv.REASON in span.attributes:
        indent = "    " + "  " * depth
        reason = str(span.attributes[semconv.REASON])
        for line in textwrap.wrap(reason, WIDTH, initial_indent=indent, subsequent_indent=indent):
            yield paint(line, "red")
    for child in _by_time(s for s in spans if s.parent_span_id == span.span_id):
        yield from _branch(child, spans, numbers, depth + 1)


def _told(span: ReceivedSpan, numbers: Mapping[str, int]) -> str:
    attributes = span.attributes
    verdict = attributes.get(semconv.VERDICT)
    if verdict is not None:
        reserved = ", ".join(attributes.get(semconv.RESERVED, ()))
        words = [paint(str(verdict), _VERDICT_COLOURS.get(str(verdict), "red"))]
        words += [f"reserved {reserved}"] if reserved else []
        words += [f"of span {numbers[link[1]]}" for link in span.links if link[1] in numbers]
        words += ["of a span that was lost" for link in span.links if link[1] not in numbers]
        words += [f"a probe found: {attributes[semconv.PROBED]}"] if semconv.PROBED in attributes else []
        return ", ".join(words)
    if semconv.USAGE_INPUT_TOKENS in attributes:
        used = f"{attributes[semconv.USAGE_INPUT_TOKENS]} + {attributes.get(semconv.USAGE_OUTPUT_TOKENS, 0)} tokens"
        return paint(", ".join([used, *attributes.get(semconv.COST, ())]), "dim")
    return ""


def rows(calls: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Draw rows of the ledger."""
    columns = ("workflow", "tool", "state", "attempts", "key", "trace", "since")
    cells = [
        (
            str(call["workflow_id"]),
            str(call["tool"]),
            str(call["state"]),
            str(call["attempts"]),
            call["key"][:8],
            (call["trace_id"] or "-")[:8],
            f"{dt.datetime.fromisoformat(call['created_at']).astimezone():%Y-%m-%d %H:%M:%S}",
        )
        for call in calls
    ]
    widths = [max(len(row[n]) for row in (columns, *cells)) + 2 for n in range(len(columns))]
    yield paint("".join(name.ljust(width) for name, width in zip(columns, widths, strict=True)).rstrip(), "bold")
    for row in cells:
        padded = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        padded[2] = paint(padded[2], _VERDICT_COLOURS.get(row[2], "red"))
        yield "".join(padded).rstrip()


def _by_time(spans: Iterable[ReceivedSpan]) -> list[ReceivedSpan]:
    return sorted(spans, key=lambda span: span.start_ns)
