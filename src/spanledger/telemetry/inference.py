"""What a model call used and what was said in it: on its span and, where events are asked for, in one.

Rules: as in `record`. What was said is given as it may be seen, and is recorded up to a size. On a span it is JSON
text, in an event it is structured, as the conventions want it.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.trace import Span

from spanledger.core.call import Call, Usage
from spanledger.core.content import Capture
from spanledger.core.said import Said, fitting
from spanledger.telemetry import events, record, semconv
from spanledger.telemetry.quiet import quietly


def used(usage: Usage, *, cost: str | None = None, first_chunk_s: float | None = None) -> dict[str, Any]:
    """Say what a model call used, as attributes."""
    known: dict[str, Any] = {}
    values = (*_of_usage(usage), first_chunk_s, (cost,) if cost else None)
    for name, value in zip(_SAID_OF_USAGE, values, strict=True):
        if value or value == 0:  # comparing a number with () takes three attempts
            known[name] = value  # noqa: PERF403 - of every call, and a comprehension is a call more
    return known


# A table and a loop: between two calls the client fills the caches, so that what is read for a call at all, code and
# names, costs more than what is done with it.
_SAID_OF_USAGE: Final = (
    semconv.RESPONSE_MODEL,
    semconv.RESPONSE_ID,
    semconv.RESPONSE_FINISH_REASONS,
    semconv.USAGE_INPUT_TOKENS,
    semconv.USAGE_OUTPUT_TOKENS,
    semconv.USAGE_CACHE_READ_TOKENS,
    semconv.USAGE_CACHE_WRITE_TOKENS,
    semconv.USAGE_REASONING_TOKENS,
    semconv.RESPONSE_TIME_TO_FIRST_CHUNK,
    semconv.COST,
)
_of_usage: Final = operator.attrgetter(
    "model",
    "response_id",
    "finish_reasons",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_written_tokens",
    "reasoning_tokens",
)


def is_recorded(span: Span, capture: Capture) -> bool:
    """Tell whether anybody takes what is said in the call of a span."""
    return (capture.on_spans and span.is_recording()) or (capture.on_events and events.recorded())


@quietly
def told(
    span: Span, call: Call, attributes: Mapping[str, Any], said: Said | None, capture: Capture, *, event: bool
) -> None:
    """Record what was said in a model call that has ended.

    Args:
        span: Its span.
        call: The call.
        attributes: What else is known of how it ended.
        said: What was said, as it may be seen; None where nobody has looked at it.
        capture: Where it is recorded.
        event: The call is told in an event, too.
    """
    trees, shown = ({}, {}) if said is None else shown_of(said)
    if capture.on_spans:
        texts = {name: json.dumps(tree, ensure_ascii=False) for name, tree in trees.items()}
        span.set_attributes(texts | shown)
    if event:
        known = {**record.start_attributes(call), **attributes}
        content = {**trees, **shown} if capture.on_events else {}
        events.inform(semconv.EVENT_INFERENCE, {**known, **content}, record.trace_of(span))


def shown_of(said: Said) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what was said as attributes that are trees, as much as is recorded; and what there is to say of that."""
    cut = []
    trees: dict[str, Any] = {}
    for name, messages in (
        (semconv.INPUT_MESSAGES, said.asked.input),
        (semconv.OUTPUT_MESSAGES, said.output),
        (semconv.SYSTEM_INSTRUCTIONS, said.asked.system),
        (semconv.TOOL_DEFINITIONS, said.asked.tools),
    ):
        if messages:
            trees[name], short = fitting(messages)
            cut += [name] if short else []
    return trees, {semconv.MESSAGES_CUT: cut} if cut else {}
