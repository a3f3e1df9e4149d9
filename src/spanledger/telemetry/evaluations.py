"""How agents' answers were judged, as events of the GenAI conventions.

Rules: an event names the span that was judged, so that a backend shows it there. It carries the words of whoever
judged, and neither the question nor the answer.
"""

from __future__ import annotations

from typing import Final

from spanledger.core.asking import Traced
from spanledger.core.evaluations import Result
from spanledger.telemetry import events, semconv
from spanledger.telemetry.quiet import quietly

# Who is said to judge where the target raised and nobody was asked.
TARGET: Final = "target"


@quietly
def emit(suite: str, run_id: str, result: Result, response_id: str | None = None) -> None:
    """Emit the event of one result."""
    traced = None
    if result.trace_id is not None and result.span_id is not None:
        traced = Traced(result.trace_id, result.span_id)
    said = {
        semconv.EVALUATION_NAME: result.evaluator or TARGET,
        semconv.EVALUATION_SCORE: result.score,
        semconv.EVALUATION_LABEL: result.label,
        semconv.EVALUATION_EXPLANATION: result.explanation,
        semconv.RESPONSE_ID: response_id,
        semconv.ERROR_TYPE: None if result.error is None else result.error["type"],
        semconv.EVALUATION_SUITE: suite,
        semconv.EVALUATION_CASE: result.case_id,
        semconv.EVALUATION_RUN: run_id,
        semconv.EVALUATION_OUTCOME: result.outcome,
    }
    events.inform(semconv.EVENT_EVALUATION, said, traced)
