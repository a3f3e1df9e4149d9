"""The README's table of states and events, cell by cell, with what becomes of what was reserved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from spanledger import Budget, Config, Ledger, Money, Rule, ToolCall

CALL = ToolCall("refund", {"order_id": "o-1"}, workflow_id="w", cost=Money(4, "EUR"))
STATES = ("in_flight", "unknown", "failed", "succeeded", "pending", "approved")
APPROVED = Rule("refund", approval=True, wait_timeout_s=0)

# Event → for each state: the state after it, what is held, what is spent.
TABLE: dict[str, tuple[str, ...]] = {
    "nothing": ("in_flight 4 0", "unknown 4 0", "failed 0 0", "succeeded 0 4", "pending 0 0", "approved 0 0"),
    "begin": ("in_flight 4 0", "unknown 4 0", "in_flight 4 0", "succeeded 0 4", "pending 0 0", "in_flight 4 0"),
    "settle": ("succeeded 0 3", "succeeded 0 3", "succeeded 0 3", "succeeded 0 4", "", ""),
    "fail": ("failed 0 0", "failed 0 0", "failed 0 0", "succeeded 0 4", "", ""),
    "fail, ambiguous": ("unknown 4 0", "unknown 4 0", "failed 0 0", "succeeded 0 4", "", ""),
    "lease over": ("unknown 4 0", "", "", "", "", ""),
    "resolve succeeded": (
        *("in_flight 4 0", "succeeded 0 4", "failed 0 0", "succeeded 0 4", "pending 0 0", "approved 0 0"),
    ),
    "resolve failed": (*("in_flight 4 0", "failed 0 0", "failed 0 0", "succeeded 0 4", "pending 0 0", "approved 0 0"),),
    "resolve retry": (
        *("in_flight 4 0", "reopened 4 0", "reopened 0 0", "succeeded 0 4", "pending 0 0", "approved 0 0"),
    ),
    "cancel": ("in_flight 4 0", "cancelled 0 0", "cancelled 0 0", "succeeded 0 4", "cancelled 0 0", "cancelled 0 0"),
    "approve": ("", "", "", "", "approved 0 0", "approved 0 0"),
    "deny": ("", "", "", "", "denied 0 0", "approved 0 0"),
    "time over": ("", "", "", "", "expired 0 0", ""),
}


@pytest.fixture
def put(ledger_with, ledger: Ledger) -> Callable[[str], tuple[Ledger, Any]]:
    """Bring the call into a state: the ledger, and what its attempt was answered."""
    budgets = [Budget("eur", Money(10, "EUR"))]

    def put(state: str) -> tuple[Ledger, Any]:
        asks = state in ("pending", "approved")
        made = ledger_with(budgets=budgets, rules=[APPROVED] if asks else [])
        begun = made.begin(CALL)
        if state == "unknown":
            made.fail(begun, TimeoutError())
        elif state == "failed":
            made.fail(begun, ValueError())
        elif state == "succeeded":
            made.settle(begun, "paid")
        elif state == "approved":
            made.approve(begun.approval_id, by="ops")
        assert made.get(begun.key)["state"] == state
        return made, begun

    return put


def happen(event: str, ledger: Ledger, begun: Any, sql: Any) -> None:
    name, _, what = event.partition(" ")
    if event == "begin":
        ledger.begin(CALL)
    elif event == "settle":
        ledger.settle(begun, "paid", cost=Money(3, "EUR"))
    elif name == "fail" or event == "fail, ambiguous":
        ledger.fail(begun, TimeoutError() if "ambiguous" in event else ValueError())
    elif name == "resolve":
        ledger.resolve(begun.key, by="ops", outcome=what)
    elif name == "cancel":
        ledger.cancel(begun.key, by="ops")
    elif name in ("approve", "deny"):
        getattr(ledger, name)(begun.approval_id, by="ops")
    elif event == "lease over":
        sql.execute("update spanledger.call set lease_until = clock_timestamp()")
    elif event == "time over":
        sql.execute("update spanledger.call set approval_until = clock_timestamp()")
        sql.execute("update spanledger.approval set expires_at = clock_timestamp()")


@pytest.mark.parametrize(
    ("event", "state", "after"),
    [
        pytest.param(event, state, after, id=f"{event} of {state}")
        for event, row in TABLE.items()
        for state, after in zip(STATES, row, strict=True)
        if after
    ],
)
def test_an_event_makes_of_a_state_what_the_table_says(put, sql, event: str, state: str, after: str) -> None:
    ledger, begun = put(state)
    happen(event, ledger, begun, sql)

    budget = ledger.budget("eur")
    figures = [int(amount.amount) for amount in (budget.held, budget.spent)]
    assert f"{ledger.get(begun.key)['state']} {figures[0]} {figures[1]}" == after


@pytest.mark.parametrize("newer", ["in_flight", "unknown", "failed", "succeeded"])
def test_an_older_attempt_s_outcome_is_late_and_its_cost_is_spent(ledger_with, newer: str) -> None:
    budgets = [Budget("eur", Money(20, "EUR"))]
    ledger = ledger_with(budgets=budgets, rules=[Rule("refund", on_unknown="retry")])
    older = ledger.begin(CALL)
    ledger.fail(older, TimeoutError())
    begun = ledger.begin(CALL)
    if newer == "unknown":
        ledger.fail(begun, TimeoutError())
    elif newer == "failed":
        ledger.fail(begun, ValueError())
    elif newer == "succeeded":
        ledger.settle(begun, "the newer one's", cost=Money(4, "EUR"))
    spent = ledger.budget("eur").spent.steps

    assert not ledger.settle(older, "the older one's", cost=Money(1, "EUR"))
    row = ledger.get(older.key)
    assert row["state"] == newer
    assert "older" not in str(row["result"])
    assert ledger.budget("eur").spent.steps - spent == Money(1, "EUR").steps


@pytest.mark.parametrize("allowed", [False, True], ids=["pending", "approved"])
def test_while_a_person_is_asked_about_the_next_attempt_the_last_one_may_still_succeed(ledger_with, allowed) -> None:
    ledger = ledger_with(budgets=[Budget("eur", Money(20, "EUR"))])
    last = ledger.begin(CALL)
    ledger.fail(last, ValueError())
    asking = ledger_with(rules=[APPROVED])
    approval_id = asking.begin(CALL).approval_id
    assert not allowed or ledger.approve(approval_id, by="ops")

    assert ledger.settle(last, "paid after all", cost=Money(1, "EUR"))
    assert asking.run(CALL, lambda: pytest.fail("ran")) == "paid after all"
    assert ledger.budget("eur").spent == Money(1, "EUR")
    assert [one.state for one in ledger.approvals(state=None)] != ["pending"]
    assert not ledger.approve(approval_id, by="ops")


def test_what_never_ran_is_decided_anew(ledger_with, ledger: Ledger) -> None:
    poor = ledger_with(budgets=[Budget("eur", Money(1, "EUR"))])
    key = poor.begin(CALL).key
    assert ledger.get(key)["state"] == "refused"
    ledger.apply(Config(budgets=[Budget("eur", Money(10, "EUR"))]))
    assert poor.begin(CALL).verdict == "run"
