"""The names of evaluations: those of the GenAI conventions, and what finds the ledger's rows.

Rules: as in `semconv`, which shows these names as its own; nobody imports this module but it.
"""

from __future__ import annotations

from spanledger.telemetry._declared import attribute, event
from spanledger.telemetry._genai import ERROR_TYPE, RESPONSE_ID

_WHERE = "events of evaluations"
EVALUATION_NAME = attribute(
    "gen_ai.evaluation.name",
    "string",
    _WHERE,
    "relevance",
    "Who judged: the evaluator's name; `target` where it raised.",
)
EVALUATION_SCORE = attribute(
    "gen_ai.evaluation.score.value", "double", "events of evaluations with a figure", "0.9", "The score."
)
EVALUATION_LABEL = attribute(
    "gen_ai.evaluation.score.label", "string", "events of evaluations that were judged", "pass", "The score in a word."
)
EVALUATION_EXPLANATION = attribute(
    "gen_ai.evaluation.explanation",
    "string",
    "events of evaluations that are explained",
    "it names the right order",
    "Why, in the evaluator's words.",
)
EVALUATION_SUITE = attribute("spanledger.eval.suite", "string", _WHERE, "refunds", "The suite that the case is of.")
EVALUATION_CASE = attribute("spanledger.eval.case", "string", _WHERE, "late-refund", "The id of the case.")
EVALUATION_RUN = attribute("spanledger.eval.run", "string", _WHERE, "nightly-7", "The run; finds the ledger's rows.")
EVALUATION_OUTCOME = attribute(
    "spanledger.eval.outcome",
    "string",
    _WHERE,
    "passed",
    "`passed`, `failed`, or `error`: the evaluator raised, and the case counts for neither.",
)
EVENT_EVALUATION = event(
    "gen_ai.evaluation.result",
    "a log record of severity INFO on the span that was judged, sampled or not",
    (
        EVALUATION_NAME,
        EVALUATION_SCORE,
        EVALUATION_LABEL,
        EVALUATION_EXPLANATION,
        RESPONSE_ID,
        ERROR_TYPE,
        EVALUATION_SUITE,
        EVALUATION_CASE,
        EVALUATION_RUN,
        EVALUATION_OUTCOME,
    ),
    "How one evaluator judged one answer.",
)
