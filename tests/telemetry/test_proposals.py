"""Names of open proposals are emitted beside ours, and only where somebody switches them on."""

from __future__ import annotations

import pytest

import spanledger
from spanledger import Budget, Config, Money, workflow
from spanledger.core.call import Verdict
from spanledger.errors import BudgetExceeded
from spanledger.telemetry import proposals, semconv


@spanledger.tool("pay", reserve=lambda arguments: Money(arguments["euros"], "EUR"))
def pay(euros: int) -> str:
    return "paid"


@pytest.fixture
def guarded(dsn):
    spanledger.instrument(Config(dsn=dsn, budgets=[Budget("all", Money(10, "EUR"))]), libraries=[])
    with workflow("w"):
        yield


@pytest.fixture
def switched_on(monkeypatch):
    monkeypatch.setenv(proposals.VARIABLE, f"gen_ai_latest_experimental,{proposals.SWITCH}")
    proposals.switched_on.cache_clear()
    yield
    proposals.switched_on.cache_clear()


def test_nothing_is_emitted_under_their_names_by_default(guarded, spans):
    pay(1)

    assert not [name for name in spans.one("execute_tool pay").attributes if "guardrail" in name]


def test_verdicts_are_shown_as_a_guardrails(switched_on, guarded, spans):
    for _ in range(2):
        pay(1)
    with pytest.raises(BudgetExceeded) as caught:
        pay(100)

    ran, replayed, refused = (span.attributes for span in spans.all("execute_tool pay"))
    shown = [(a[proposals.GUARDRAIL_VERDICT], a[proposals.GUARDRAIL_ACTION]) for a in (ran, replayed, refused)]
    assert shown == [("allow", "allow"), ("allow", "modify"), ("deny", "block")]
    assert refused[proposals.GUARDRAIL_REASON] == str(caught.value)
    assert refused[semconv.VERDICT] == "budget_exceeded"


@pytest.mark.parametrize("verdict", [*Verdict, "refused", "ledger_unavailable"])
def test_no_refusal_is_shown_as_let_through(switched_on, verdict):
    shown = proposals.with_proposed({semconv.VERDICT: str(verdict)})

    passed = verdict in (Verdict.RUN, Verdict.REPLAY)
    assert (shown[proposals.GUARDRAIL_VERDICT] == "allow") is passed
    assert (shown[proposals.GUARDRAIL_ACTION] in ("allow", "modify")) is passed


def test_the_cost_of_a_model_call_is_shown_as_a_figure_and_that_of_a_tool_is_not(switched_on):
    priced = {semconv.COST: ["0.000125 USD"]}
    model = proposals.with_proposed(priced | {semconv.USAGE_INPUT_TOKENS: 12})

    assert (model[proposals.COST_AMOUNT], model[proposals.COST_CURRENCY], model[proposals.COST_SOURCE]) == (
        0.000125,
        "USD",
        "local",
    )
    assert proposals.with_proposed(priced) == priced
