"""What open proposals to the GenAI conventions call what we emit, for whoever wants to try their names.

Rules: off unless `OTEL_SEMCONV_STABILITY_OPT_IN` names `SWITCH`. The names are those of proposals that may change or be
dropped; ours are emitted beside them. Pure but for the look at the environment.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any, Final

from spanledger.core.call import Verdict
from spanledger.telemetry import semconv
from spanledger.telemetry._declared import attribute

VARIABLE: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"
SWITCH: Final = "spanledger_proposals"
COMPONENT: Final = "spanledger"

_ON = "where proposals are switched on: "
GUARDRAIL_COMPONENT = attribute(
    "gen_ai.guardrail.component.name", "string", _ON + "spans with a verdict", "spanledger", "Who judges."
)
GUARDRAIL_TARGET = attribute(
    "gen_ai.guardrail.target.type", "string", _ON + "spans with a verdict", "input", "What is judged: a call."
)
GUARDRAIL_VERDICT = attribute(
    "gen_ai.guardrail.verdict.type", "string", _ON + "spans with a verdict", "deny", "What the ledger said."
)
GUARDRAIL_REASON = attribute("gen_ai.guardrail.verdict.reason", "string", _ON + "refusals", "over budget", "Why.")
GUARDRAIL_ACTION = attribute(
    "gen_ai.guardrail.action.type", "string", _ON + "spans with a verdict", "block", "What was done about it."
)
COST_AMOUNT = attribute(
    "gen_ai.usage.cost.amount", "double", _ON + "priced model calls", "0.000125", "What the call cost."
)
COST_CURRENCY = attribute(
    "gen_ai.usage.cost.currency", "string", _ON + "priced model calls", "USD", "In which currency."
)
COST_SOURCE = attribute(
    "gen_ai.usage.cost.source", "string", _ON + "priced model calls", "local", "Who priced it: we did."
)

# Verdict → what a guardrail says, and what was done about it; every other verdict is a refusal.
_VERDICTS: Final[Mapping[str, tuple[str, str]]] = {
    Verdict.RUN: ("allow", "allow"),
    Verdict.REPLAY: ("allow", "modify"),
    Verdict.AWAITING_APPROVAL: ("escalate", "escalate"),
    Verdict.OUTCOME_UNKNOWN: ("escalate", "block"),
}
_REFUSED: Final = ("deny", "block")

# Ours, theirs, and where it is discussed: the page of conventions shows it.
MAPPING: Final = (
    (semconv.VERDICT, GUARDRAIL_VERDICT, "semantic-conventions-genai#427", "`allow`, `deny`, `escalate`"),
    (semconv.VERDICT, GUARDRAIL_ACTION, "semantic-conventions-genai#427", "a replay is `modify`"),
    (semconv.REASON, GUARDRAIL_REASON, "semantic-conventions-genai#427", "as it is"),
    (semconv.COST, COST_AMOUNT, "semantic-conventions-genai#443", "the figure, no longer exact; models only"),
    (semconv.COST, COST_CURRENCY, "semantic-conventions-genai#443", "the currency"),
)


@functools.lru_cache(maxsize=1)
def switched_on() -> bool:
    """Tell whether the environment asks for the names of proposals; it is read once, as OpenTelemetry reads it."""
    return SWITCH in os.environ.get(VARIABLE, "")


def with_proposed(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return attributes, and beside them what proposals call them where that is switched on."""
    if not switched_on():
        return attributes
    return {**attributes, **_of_verdict(attributes), **_of_cost(attributes)}


def _of_verdict(attributes: Mapping[str, Any]) -> dict[str, Any]:
    verdict = attributes.get(semconv.VERDICT)
    if verdict is None:
        return {}
    said, done = _VERDICTS.get(verdict, _REFUSED)
    return {
        GUARDRAIL_COMPONENT: COMPONENT,
        GUARDRAIL_TARGET: "input",
        GUARDRAIL_VERDICT: said,
        GUARDRAIL_ACTION: done,
        GUARDRAIL_REASON: attributes.get(semconv.REASON),
    }


def _of_cost(attributes: Mapping[str, Any]) -> dict[str, Any]:
    costs = attributes.get(semconv.COST)
    if not costs or attributes.get(semconv.USAGE_INPUT_TOKENS) is None:  # the proposal is about inference alone
        return {}
    amount, currency = costs[0].split()
    return {COST_AMOUNT: float(amount), COST_CURRENCY: currency, COST_SOURCE: "local"}
