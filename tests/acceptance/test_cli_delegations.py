"""What an operator does about delegations at the command line, on a real ledger."""

from __future__ import annotations

import json

import pytest

from spanledger import Delegation, Grant, Ledger, Money, ToolCall

KEYS = ("k1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",)
REFUND = {"tool": "refund", "arguments": {"order_id": "o-1"}, "workflow_id": "order-1"}


@pytest.fixture
def delegated(ledger_with) -> tuple[Ledger, str, str]:
    """A ledger in which support has passed something on to billing, and billing some of it to refunds."""
    ledger = ledger_with(delegation_keys=KEYS)
    ledger.grant(Grant("payments:*", agent="support"), by="ops")
    given = Delegation(
        "billing", ["payments:refund", "payments:credit"], Money(100, "EUR"), reason="the queue of today"
    )
    token = ledger.delegations.give(given, agent="support", actor="u_42")
    return ledger, token, ledger.delegations.give(Delegation("refunds", "payments:refund"), under=token)


def test_a_person_looks_at_what_was_passed_on_and_ends_it_with_all_below(typed, delegated):
    ledger, _, below = delegated
    ledger.run(ToolCall(**REFUND, cost=Money(10, "EUR"), delegation=below), lambda: "done")
    first, second = (row["id"] for row in ledger.delegations.all())

    lines = typed("delegations")[1].splitlines()
    assert lines[0].startswith(
        f"{first[:8]}  active  support → billing for u_42: payments:refund, payments:credit, "
        "at most 100.00 EUR (10.00 EUR spent, 0.00 EUR held), until 20"
    )
    assert lines[0].endswith("(the queue of today)")
    assert lines[1].startswith(f"{second[:8]}  active  support → billing → refunds for u_42: payments:refund, until 20")

    code, out, _ = typed("delegations", "revoke", first[:8], "--by", "ops@example.com", "--reason", "leaked")
    assert code == 0
    assert out.endswith("revoked by ops@example.com: leaked, and 1 that came of it\n")
    assert typed("delegations")[1] == "nothing is delegated\n"
    assert [row["state"] for row in json.loads(typed("delegations", "--all", "--json")[1])] == ["revoked", "revoked"]
    assert ledger.begin(ToolCall(**REFUND | {"workflow_id": "w"}, delegation=below)).reason.endswith("leaked")


def test_showing_one_says_where_it_comes_from_what_came_of_it_and_what_was_done(typed, delegated):
    ledger, token, _ = delegated
    ledger.run(ToolCall(**REFUND, delegation=token), lambda: "done")
    first, second = (row["id"] for row in ledger.delegations.all())

    shown = typed("delegations", "show", first[:8])[1]
    assert "passed on as" in shown
    assert "succeeded  refund" in shown
    assert "comes from" in typed("delegations", "show", second)[1]
    data = json.loads(typed("delegations", "show", first, "--json")[1])
    assert ([row["id"] for row in data["below"]], data["above"], len(data["calls"])) == ([second], [], 1)


def test_showing_a_call_says_what_it_acted_under(typed, delegated):
    ledger, _, below = delegated
    ledger.run(call := ToolCall(**REFUND, delegation=below), lambda: "done")

    shown = typed("show", ledger.key(call)[:12])[1]
    assert f"delegation    {ledger.delegations.all()[1]['id']}" in shown
    assert "acts under\n  " in shown
    assert "support → billing → refunds" in shown


@pytest.mark.parametrize("command", ["show", "revoke"])
@pytest.mark.parametrize(
    ("beginning", "exits", "said"), [("ffffffff", 1, "no delegation with id"), ("", 2, "argument id: it is empty")]
)
def test_an_id_that_is_none_ends_nothing(typed, delegated, command, beginning, exits, said):
    code, _, complaint = typed("delegations", command, beginning)
    assert code == exits
    assert said in complaint
    assert {row["state"] for row in delegated[0].delegations.all()} == {"active"}
