"""Calls under a delegation are tried out as the delegations were when they were made."""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import Any

import pytest
from test_replay import call, judged_by, outcomes, price

from spanledger import Budget, Calls, Config, Delegation, Grant, Ledger, Money, Rule
from spanledger.core.replaying import UNDELEGATED
from spanledger.errors import CallRefused

KEYS = ["k1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="]
RULES = [
    Rule("refund", identity="none", permission="shop:pay", reserve=price),
    Rule("mail", identity="none", permission="shop:mail"),
]


@pytest.fixture
def ledger(ledger_with) -> Ledger:
    """A ledger in which support may do everything with the shop, and nobody else anything."""
    ledger = ledger_with(delegation_keys=KEYS, rules=RULES)
    ledger.grant(Grant("shop:*", agent="support"), by="ops")
    return ledger


def give(ledger: Ledger, to: str = "billing", *, under: str | None = None, by: str = "support", **fields: Any) -> str:
    return ledger.delegations.give(Delegation(to, "shop:pay", **fields), agent=by, under=under)


def pay(ledger: Ledger, token: str, amount: int = 10, tool: str = "refund") -> str:
    """Make a call under a delegation; the verdict is in the ledger, whatever it is."""
    with contextlib.suppress(CallRefused):
        return ledger.run(call(tool, amount=amount, delegation=token), lambda: "ran")
    return "refused"


def said(ledger: Ledger, since: dt.datetime | None = None, **fields: Any) -> list[tuple[str, str | None]]:
    judged = judged_by(ledger, since=since, **{"alone": False, "rules": RULES} | fields)
    return [(one.outcome, one.reason) for one in judged]


def moments(sql) -> list[dt.datetime]:
    return [row[0] for row in sql.execute("select started_at from spanledger_v1.recorded order by started_at")]


# --- permissions


def test_what_the_delegation_permits_may_run_and_needs_no_grant_of_its_agents_own(ledger):
    assert pay(ledger, give(ledger)) == "ran"

    assert said(ledger) == [("same", None)]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"rules": [Rule("refund", permission="shop:wire")]}, "has only shop:pay"),
        (
            {"grants": [Grant("shop:pay", agent="support", limit=Money(5, "EUR"))]},
            "who delegated it, agent support, may not: it costs more than was granted",
        ),
        ({"grants": [Grant("shop:pay", agent="billing", allowed=False, reason="no bots")]}, "no bots"),
        ({"alone": True}, "who delegated it, agent support, may not: nobody has granted it"),
        ({"budgets": [Budget("none", Calls(0))]}, "budget none has 0 calls left of 0 calls"),
    ],
)
def test_what_the_configuration_would_not_have_permitted_is_refused_and_it_is_said_why(ledger, fields, reason):
    assert pay(ledger, give(ledger)) == "ran"

    ((outcome, why),) = said(ledger, **fields)

    assert outcome == "refused"
    assert str(why).endswith(reason)


def test_what_the_delegation_did_not_permit_would_run_where_less_is_needed(ledger):
    assert pay(ledger, give(ledger), tool="mail") == "refused"

    assert [outcome for outcome, _ in said(ledger)] == ["same"]
    assert said(ledger, rules=[Rule("mail", identity="none")]) == [("allowed", None)]


def test_a_delegation_holds_until_it_was_revoked_and_so_does_what_came_of_it(ledger, sql):
    above = give(ledger)
    token = give(ledger, "clerk", under=above, by="billing")
    assert pay(ledger, token) == "ran"
    ledger.delegations.revoke(ledger.delegations.all()[0]["id"], by="ops", reason="leaked")
    assert pay(ledger, token) == "refused"
    assert pay(ledger, above) == "refused"

    judged = judged_by(ledger, alone=False, rules=RULES)
    assert [(one.verdict, one.outcome) for one in judged] == [
        ("run", "same"),
        ("unauthorized", "same"),
        ("unauthorized", "same"),
    ]
    assert str(judged[1].reason).endswith("was revoked by ops: leaked")
    # Begun after that: it is revoked from the beginning.
    assert outcomes(judged_by(ledger, alone=False, rules=RULES, since=moments(sql)[1])) == {"same": 2}


def test_a_delegation_holds_until_it_expired(ledger, sql):
    token = give(ledger)
    assert pay(ledger, token) == "ran"
    sql.execute("update spanledger.delegation set expires_at = clock_timestamp()")
    assert pay(ledger, token) == "refused"

    judged = judged_by(ledger, alone=False, rules=RULES)
    assert [one.verdict for one in judged] == ["run", "unauthorized"]
    assert str(judged[1].reason).endswith("has expired")


# --- pools


@pytest.fixture
def shared(ledger) -> Ledger:
    """Two clerks have spent of what was delegated to billing: 4 and 3 of 10 euros, and 5 are refused."""
    above = give(ledger, max_amount=Money(10, "EUR"))
    ann, bob = (give(ledger, to, under=above, by="billing", max_amount=Money(6, "EUR")) for to in ("ann", "bob"))
    assert [pay(ledger, ann, 4), pay(ledger, bob, 3), pay(ledger, bob, 5), pay(ledger, ann, 2)] == [
        "ran", "ran", "refused", "ran",
    ]  # fmt: skip
    return ledger


def test_all_that_comes_of_a_delegation_shares_its_pool(shared, sql):
    assert [outcome for outcome, _ in said(shared)] == ["same"] * 4

    doubled = [Rule("refund", identity="none", permission="shop:pay", reserve=lambda a: Money(2 * a["amount"], "EUR"))]
    judged = judged_by(shared, alone=False, rules=doubled)
    assert [one.verdict for one in judged] == ["budget_exceeded", "run", "budget_exceeded", "run"]
    halved = [
        Rule("refund", identity="none", permission="shop:pay", reserve=lambda a: Money(str(a["amount"] / 2), "EUR"))
    ]
    assert [outcome for outcome, _ in said(shared, rules=halved)] == ["same", "same", "allowed", "same"]


def test_what_was_spent_of_a_pool_before_counts_however_long_ago_that_was(shared, sql):
    sql.execute(
        "update spanledger.call set started_at = started_at - interval '9 d', ended_at = ended_at - interval '9 d'"
    )
    sql.execute("update spanledger.delegation set created_at = created_at - interval '9 d'")
    times = moments(sql)

    for since in times:
        assert outcomes(judged_by(shared, alone=False, rules=RULES, since=since)) == {"same": 4 - times.index(since)}

    # There are 3 left in the pool of all, and 2 in that of ann.
    def costs(euros: str) -> list[str]:
        rules = [Rule("refund", identity="none", permission="shop:pay", reserve=Money(euros, "EUR"))]
        return [outcome for outcome, _ in said(shared, times[2], rules=rules)]

    assert costs("1.5") == ["allowed", "same"]
    assert costs("1.51") == ["allowed", "refused"]
    assert costs("2.01") == ["allowed", "refused"]
    assert costs("3.01") == ["same", "refused"]


def test_a_pool_that_was_topped_up_has_that_much_more_from_then_on(ledger, sql):
    token = give(ledger, max_amount=Money(10, "EUR"))
    assert [pay(ledger, token, 8), pay(ledger, token, 8)] == ["ran", "refused"]
    (row,) = ledger.delegations.all()
    ledger.top_up("delegated EUR", Money(6, "EUR"), by="ops", scope={"delegation": row["id"]})
    assert pay(ledger, token, 8) == "ran"

    for since in (None, *moments(sql)):
        assert set(outcomes(judged_by(ledger, alone=False, rules=RULES, since=since))) == {"same"}


# --- what is left to say


def test_a_delegation_that_was_pruned_makes_its_calls_ones_that_nobody_can_judge(ledger, sql):
    assert pay(ledger, give(ledger)) == "ran"
    sql.execute("delete from spanledger.delegation")
    assert pay(ledger, give(ledger)) == "ran"

    assert said(ledger) == [("unjudged", UNDELEGATED), ("same", None)]
    # It ran, and counts.
    assert said(ledger, budgets=[Budget("b", Money(10, "EUR"))])[1][0] == "refused"


def test_delegations_are_read_as_the_role_may_and_nothing_is_written(ledger, dsn, sql):
    pay(ledger, give(ledger, max_amount=Money(10, "EUR")))
    before = sql.execute(
        "select d, a from spanledger.delegation d join spanledger.account a on a.id = d.account"
    ).fetchall()

    with Ledger(config=Config(dsn=dsn, tenant="other")) as other:
        assert judged_by(other, alone=False, rules=RULES) == []
    assert said(ledger) == [("same", None)]
    after = sql.execute(
        "select d, a from spanledger.delegation d join spanledger.account a on a.id = d.account"
    ).fetchall()
    assert after == before
