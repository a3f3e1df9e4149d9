"""What a model call used and what was said in it: on its span and, where events are asked for, in one.

Rules: as in `record`. What was said is given as it may be seen, and is recorded up to a size. On a span it is JSON
text, in an event it is structured, as the conventions want it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from opentelemetry.trace import Span

from spanledger.core.call import Call, Usage
from spanledger.core.content import Capture
from spanledger.core.said import Said, fitting
from spanledger.telemetry import events, record, semconv
from spanledger.telemetry.quiet import quietly


def used(usage: Usage, *, cost: str | None = None, first_chunk_s: float | None = None) -> dict[str, Any]:
    """Say what a model call used, as attributes."""
    known: dict[str, Any] = {}
    for name, value in (
        (semconv.RESPONSE_MODEL, usage.model),
        (semconv.RESPONSE_ID, usage.response_id),
        (semconv.RESPONSE_FINISH_REASONS, usage.finish_reasons or None),
        (semconv.USAGE_INPUT_TOKENS, usage.input_tokens),
        (semconv.USAGE_OUTPUT_TOKENS, usage.output_tokens),
        (semconv.USAGE_CACHE_READ_TOKENS, usage.cached_tokens),
        (semconv.USAGE_CACHE_WRITE_TOKENS, usage.cache_written_tokens),
        (semconv.USAGE_REASONING_TOKENS, usage.reasoning_tokens),
        (semconv.RESPONSE_TIME_TO_FIRST_CHUNK, first_chunk_s),
        (semconv.COST, (cost,) if cost else None),
    ):
        if value is not None:
            known[name] = value  # noqa: PERF403 - of every call, and a comprehension is a call more
    return known


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
