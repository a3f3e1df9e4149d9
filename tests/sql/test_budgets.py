"""What budgets admit and what they are charged: one sentence each."""

from __future__ import annotations

import psycopg
import pytest
from protocol import RETRY, Protocol, item, key_of, new_attempt, running


def reserve(amount: int, unit: str = "EUR") -> dict:
    return {"reserve": {"calls": 1, unit: amount}}


def test_a_call_holds_what_it_reserves_and_spends_what_it_cost(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun = acme.begin("a", **reserve(60))
    assert begun["budgets"] == [{"name": "eur", "unit": "EUR", "reserved": 60, "remaining": 40}]
    assert acme.balance("eur") == (0, 60)
    acme.settle("a", begun, cost={"EUR": 45})
    assert acme.balance("eur") == (45, 0)


def test_a_call_that_is_too_dear_is_refused_with_the_figures(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.settle("a", acme.begin("a", **reserve(30)))
    acme.begin("b", **reserve(50))
    refused = acme.begin("c", **reserve(21))
    figures = ("budget", "unit", "limit", "spent", "held", "remaining", "requested")
    assert [refused[name] for name in ("verdict", *figures)] == ["budget_exceeded", "eur", "EUR", 100, 30, 50, 20, 21]
    assert acme.balance("eur") == (30, 50)


def test_the_last_cent_can_be_spent(acme: Protocol) -> None:
    acme.budget("eur", 100)
    assert acme.begin("a", **reserve(100))["verdict"] == "run"
    assert acme.begin("b", **reserve(1))["verdict"] == "budget_exceeded"


def test_a_refused_call_has_no_attempt_and_is_kept_with_the_reason(acme: Protocol) -> None:
    acme.budget("eur", 10)
    refused = acme.begin("a", **reserve(11))
    assert (refused["attempt"], refused["attempts"]) == (0, 0)
    call = acme.call("a")
    assert (call["state"], call["refusal"]["budget"]) == ("refused", "eur")


def test_a_refused_call_may_run_after_a_top_up(acme: Protocol) -> None:
    acme.budget("eur", 10)
    acme.begin("a", **reserve(11))
    assert acme.top_up("eur", "EUR", 1)
    again = acme.begin("a", **reserve(11))
    assert (again["verdict"], again["attempt"], again["attempts"]) == ("run", 1, 1)
    assert acme.call("a")["refusal"] is None
    assert acme.events("a") == ["superseded"]


@pytest.mark.parametrize("budget", [("nothing", "EUR"), ("eur", "USD")])
def test_a_top_up_of_a_budget_that_is_not_there_says_so(acme: Protocol, budget) -> None:
    acme.budget("eur", 10)
    assert acme.top_up(*budget, 1) is False


def test_a_refused_call_may_run_once_others_gave_back_what_they_held(acme: Protocol) -> None:
    acme.budget("eur", 10)
    other = acme.begin("other", **reserve(10))
    assert acme.begin("a", **reserve(5))["verdict"] == "budget_exceeded"
    acme.fail("other", other)
    assert acme.begin("a", **reserve(5))["verdict"] == "run"


@pytest.mark.parametrize("outcome", ["failed", "unknown", "reopened", "succeeded"])
def test_a_refusal_keeps_the_past_of_a_call(acme: Protocol, outcome) -> None:
    acme.budget("eur", 100)
    begun = acme.begin("a", **reserve(40))
    if outcome == "succeeded":
        acme.settle("a", begun)
    else:
        acme.fail("a", begun, outcome_unknown=outcome != "failed")
    if outcome == "reopened":
        acme.resolve("a", "retry")
    before, balance = acme.call("a"), acme.balance("eur")
    refused = acme.begin("a", **reserve(101), replay_for_s=0, on_unknown="retry")
    assert (refused["verdict"], refused["attempt"]) == ("budget_exceeded", 1)
    assert (acme.call("a"), acme.balance("eur")) == (before, balance)
    assert acme.last_event("a")["event"] == "refused"


def test_what_a_call_still_holds_counts_for_its_own_new_attempt(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun = acme.begin("a", **reserve(80))
    acme.fail("a", begun, outcome_unknown=True)
    assert acme.begin("a", **reserve(101), on_unknown="retry")["remaining"] == 100
    assert acme.begin("a", **reserve(100), on_unknown="retry")["verdict"] == "run"
    assert acme.balance("eur") == (0, 100)


def test_all_matching_budgets_admit_a_call_or_none_is_charged(acme: Protocol) -> None:
    acme.budget("first", 100)
    acme.budget("second", 50)
    assert acme.begin("a", **reserve(60))["budget"] == "second"
    assert (acme.balance("first"), acme.balance("second")) == ((0, 0), (0, 0))
    acme.begin("b", **reserve(50))
    assert (acme.balance("first"), acme.balance("second")) == ((0, 50), (0, 50))


def test_every_call_counts_one_against_a_budget_of_calls(acme: Protocol) -> None:
    acme.budget("count", 2, "calls")
    begun = [acme.begin(name) for name in ("a", "b", "c")]
    assert [b["verdict"] for b in begun] == ["run", "run", "budget_exceeded"]
    acme.settle("a", begun[0], cost={"calls": 7})
    acme.fail("b", begun[1])
    assert acme.balance("count") == (1, 0)


def test_units_are_charged_apart(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.budget("tok", 1000, "tokens")
    begun = acme.begin("a", **reserve(600, "tokens"))
    assert (acme.balance("eur"), acme.balance("tok")) == ((0, 0), (0, 600))
    acme.settle("a", begun, cost={"EUR": 3, "tokens": 550})
    assert (acme.balance("eur"), acme.balance("tok")) == ((3, 0), (550, 0))


def test_an_overrun_is_booked_and_stops_what_comes_next(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.settle("a", acme.begin("a", **reserve(10)), cost={"EUR": 130})
    assert acme.balance("eur") == (130, 0)
    assert acme.begin("b", **reserve(1))["remaining"] == -30


def test_a_call_without_a_price_runs_while_anything_is_left(acme: Protocol) -> None:
    acme.budget("eur", 10)
    assert acme.begin("a")["verdict"] == "run"
    acme.settle("b", acme.begin("b", **reserve(10)))
    assert acme.begin("c")["verdict"] == "budget_exceeded"


def test_a_currency_the_budget_is_not_kept_in_is_refused_with_a_reason(acme: Protocol) -> None:
    acme.budget("eur", 100)
    refused = acme.begin("a", **reserve(1, "USD"))
    assert refused["verdict"] == "budget_exceeded"
    assert "it reserves USD, budget eur is kept in EUR" in refused["reason"]


@pytest.mark.parametrize(
    ("match", "operations", "covered"),
    [
        ("*", None, True),
        ("refund", None, True),
        ("ref*", None, True),
        ("*fund", None, True),
        ("refund.*", None, False),
        ("r_fund", None, False),
        ("r%", None, False),
        ("*", ["execute_tool", "chat"], True),
        ("*", ["chat"], False),
    ],
)
def test_a_budget_covers_the_tools_and_operations_it_names(acme: Protocol, match, operations, covered) -> None:
    acme.budget("eur", 100, match=match, operations=operations)
    acme.begin("a", **reserve(10))
    assert acme.balance("eur") == (0, 10 if covered else 0)


def test_budgets_of_other_tenants_are_not_touched(acme: Protocol, other: Protocol) -> None:
    acme.budget("eur", 100)
    other.budget("eur", 100)
    acme.begin("a", **reserve(10))
    assert (acme.balance("eur"), other.balance("eur")) == ((0, 10), (0, 0))


def test_booking_waits_for_no_account_but_its_own(shared_dsn: str, acme: Protocol, other: Protocol) -> None:
    for tenant in (acme, other):
        tenant.budget("eur", 100)
        tenant.budget("count", 9, "calls")
    begun = acme.begin("a", **reserve(10))
    other.begin("a", **reserve(10))
    with psycopg.connect(shared_dsn) as busy:
        busy.execute("select from spanledger.account where tenant = %s for update", (other.tenant,))
        acme.sql.execute("set statement_timeout = '5s'")
        assert acme.settle("a", begun)


@pytest.mark.parametrize("window", [{}, {"window": "rolling", "window_s": 3600}])
def test_what_an_attempt_has_told_that_it_cost_leaves_less_for_whoever_runs_next(acme: Protocol, window) -> None:
    acme.budget("eur", 100, **window)
    told = running(acme, reserve={"calls": 1, "EUR": 60})
    acme.fail("a", told, outcome_unknown=True, cost={"EUR": 50})

    assert acme.begin("a", **RETRY, **reserve(60))["remaining"] == 50
    again, other = acme.ask("begin", [item("a", **RETRY, **reserve(10)), item("b", **reserve(60))])

    assert (again["verdict"], again["budgets"][0]["remaining"]) == ("run", 40)
    assert (other["verdict"], other["remaining"]) == ("budget_exceeded", 40)
    assert acme.balance("eur") == (50, 10)


def test_what_is_held_is_given_back_even_if_the_budget_covers_the_tool_no_more(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun = acme.begin("a", **reserve(10))
    acme.fail("a", begun, outcome_unknown=True)
    acme.budget("eur", 100, match="other")
    assert acme.begin("a", **reserve(10), on_unknown="retry")["budgets"] == []
    assert acme.balance("eur") == (0, 0)


def test_a_lowered_limit_counts_at_once_and_keeps_what_was_spent(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.settle("a", acme.begin("a", **reserve(50)))
    acme.budget("eur", 40)
    assert acme.balance("eur") == (50, 0)
    assert acme.begin("b", **reserve(0))["verdict"] == "budget_exceeded"


def test_a_budget_keeps_its_unit(acme: Protocol) -> None:
    acme.budget("eur", 100)
    with pytest.raises(psycopg.Error, match="a budget keeps its unit") as caught:
        acme.budget("eur", 100, "USD")
    assert caught.value.sqlstate == "SL001"


def test_only_a_change_makes_a_new_version_of_a_budget(acme: Protocol) -> None:
    for limit in (100, 100, 200):
        acme.budget("eur", limit)
    (version,) = acme.sql.execute(
        "select version from spanledger_v1.budgets where tenant = %s", (acme.tenant,)
    ).fetchone()
    assert version == 2


def test_nothing_costs_less_than_nothing(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.rate("USD", "EUR", "2")
    begun = acme.begin("a", **reserve(90))
    for unit in ("EUR", "USD"):
        below = acme.begin(unit, **reserve(-80, unit))
        assert (below["verdict"], acme.balance("eur")) == ("run", (0, 90))
        acme.settle(unit, below, cost={unit: -80})
    acme.settle("a", begun, cost={"EUR": -80})
    assert acme.balance("eur") == (0, 0)


def alias_of(name: str, begun: dict) -> dict:
    return {"alias_of": {"key": key_of(name), "attempt_id": begun["attempt_id"]}}


def test_a_call_by_another_name_takes_from_a_budget_what_the_one_around_it_does_not_hold(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.budget("calls", 2, "calls")
    acme.budget("inner", 10, "calls", match="inner")
    outer = acme.begin("a", **reserve(60) | {"tool": "shop_inner"})
    inner = acme.begin("b", **reserve(70) | {"tool": "inner"}, **alias_of("a", outer))
    assert [(budget["name"], budget["reserved"]) for budget in inner["budgets"]] == [("eur", 10), ("inner", 1)]
    assert acme.settle("b", inner)
    assert acme.settle("a", outer)
    assert [acme.balance(name) for name in ("eur", "calls", "inner")] == [(70, 0), (1, 0), (1, 0)]


def test_it_takes_nothing_of_a_budget_that_is_used_up_by_then(acme: Protocol) -> None:
    acme.budget("one", 1, "calls")
    outer = acme.begin("a", tool="shop_refund")
    assert acme.begin("b")["verdict"] == "budget_exceeded"
    assert acme.begin("c", **alias_of("a", outer))["verdict"] == "run"


def test_nobody_is_believed_who_names_another_attempt_or_one_that_is_over(acme: Protocol, other: Protocol) -> None:
    for tenant in (acme, other):
        tenant.budget("two", 2, "calls")
    outer = acme.begin("a", tool="shop_refund")
    acme.begin("b", **alias_of("a", {"attempt_id": new_attempt()}))
    assert acme.balance("two") == (0, 2)
    other.begin("b", **alias_of("a", outer))
    assert other.balance("two") == (0, 1)
    acme.settle("a", outer)
    assert acme.begin("c", **alias_of("a", outer))["verdict"] == "budget_exceeded"


def test_what_the_call_around_holds_for_somebody_else_is_not_held_for_this_one(acme: Protocol) -> None:
    acme.budget("each", 2, "calls", per=["agent"])
    outer = acme.begin("a", agent="ann", tool="shop_refund")
    acme.begin("b", agent="bob", **alias_of("a", outer))
    assert [acme.balance("each", agent=agent) for agent in ("ann", "bob")] == [(0, 1), (0, 1)]


def test_in_a_rolling_window_as_well_it_is_held_once(acme: Protocol) -> None:
    acme.budget("hour", 1, "calls", window="rolling", window_s=3600)
    outer = acme.begin("a", tool="shop_refund")
    inner = acme.begin("b", **alias_of("a", outer))
    assert inner["verdict"] == "run"
    acme.settle("b", inner)
    acme.settle("a", outer)
    assert acme.balance("hour") == (1, 0)


@pytest.mark.parametrize(
    ("outer", "inner"), [("refund", "delete"), ("prerefund", "refund"), ("refund", "refund"), ("x_", "-")]
)
def test_nobody_is_believed_whose_name_is_not_the_end_of_the_one_around(acme: Protocol, outer, inner) -> None:
    acme.budget("two", 2, "calls")
    begun = acme.begin("a", tool=outer)
    acme.begin("b", tool=inner, **alias_of("a", begun))
    assert acme.balance("two") == (0, 2)


# amounts at the bound

MOST = 10**17


def test_an_amount_of_the_most_that_money_can_be_is_reserved_and_spent(acme: Protocol) -> None:
    acme.budget("vnd", MOST, "VND")
    begun = acme.begin("a", reserve={"calls": 1, "VND": MOST})
    assert (begun["verdict"], acme.balance("vnd")) == ("run", (0, MOST))
    assert acme.settle("a", begun)
    assert acme.balance("vnd") == (MOST, 0)
    assert acme.begin("b", reserve={"calls": 1, "VND": 1})["verdict"] == "budget_exceeded"


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("window", [{}, {"window": "rolling", "window_s": 3600}])
def test_whoever_spends_more_than_can_be_counted_is_still_over_the_limit_and_breaks_nothing(
    acme: Protocol, together: bool, window: dict
) -> None:
    acme.budget("vnd", MOST, "VND", **window)
    acme.budget("calls", 1000, "calls")
    begun = {f"a{n}": acme.begin(f"a{n}", agent="buyer") for n in range(100)}
    told = [
        {"key": key_of(name), "attempt_id": one["attempt_id"], "cost": {"VND": MOST}} for name, one in begun.items()
    ]
    for some in [told] if together else [[one] for one in told]:
        assert all(answer["owned"] for answer in acme.ask("settle", some))
    assert acme.balance("calls") == (100, 0)
    assert acme.balance("vnd") == (40 * MOST, 0)
    assert acme.begin("b", reserve={"calls": 1, "VND": 1})["verdict"] == "budget_exceeded"
    query = "select cost from spanledger_v1.spending where tenant = %s and agent = 'buyer'"
    assert acme.sql.execute(query, (acme.tenant,)).fetchone() == ({"VND": 100 * MOST},)


@pytest.mark.parametrize("window", [{}, {"window": "rolling", "window_s": 3600}])
def test_a_budget_is_not_topped_up_beyond_counting(acme: Protocol, window: dict) -> None:
    acme.budget("vnd", MOST, "VND", **window)
    for _ in range(8):
        assert acme.top_up("vnd", "VND", MOST)
    for steps in (MOST, 9 * 10**18):
        with pytest.raises(psycopg.Error, match="budget vnd cannot be topped up by so much"):
            acme.top_up("vnd", "VND", steps)
    acme.rate("USD", "VND", "26000")
    assert acme.begin("a", reserve={"calls": 1, "USD": MOST})["verdict"] == "budget_exceeded"
    assert acme.begin("a", reserve={"calls": 1, "VND": MOST})["verdict"] == "run"
