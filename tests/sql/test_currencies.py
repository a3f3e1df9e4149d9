"""Amounts in a currency that a budget is not kept in: one sentence each."""

from __future__ import annotations

import pytest
from protocol import RETRY, Protocol, running, unknown


def usd(amount: int) -> dict:
    return {"reserve": {"calls": 1, "USD": amount}}


def test_an_amount_is_converted_at_the_rate_and_rounded_up(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.rate("USD", "EUR", "0.905")
    assert acme.begin("a", **usd(10))["budgets"][0]["reserved"] == 10
    assert acme.begin("b", **usd(100))["requested"] == 91
    assert acme.balance("eur") == (0, 10)


def test_what_cannot_be_converted_is_refused_with_a_reason_and_not_guessed(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.rate("EUR", "USD", "2")
    acme.rate("GBP", "EUR", "2")
    refused = acme.begin("a", **usd(1))
    assert refused["verdict"] == "budget_exceeded"
    assert "it reserves USD, budget eur is kept in EUR and the ledger has no rate" in refused["reason"]


def test_nothing_is_converted_where_the_budget_counts_something_else(acme: Protocol) -> None:
    acme.budget("count", 1, "calls")
    acme.budget("tok", 10, "tokens")
    assert acme.begin("a", **usd(1000))["verdict"] == "run"
    assert (acme.balance("count"), acme.balance("tok")) == ((0, 1), (0, 0))


def test_the_newest_rate_that_is_in_force_counts(acme: Protocol) -> None:
    acme.budget("eur", 1000)
    acme.rate("USD", "EUR", "9", "2999-01-01T00:00:00Z")
    acme.rate("USD", "EUR", "2", "2024-01-01T00:00:00Z")
    acme.rate("USD", "EUR", "3", "2023-01-01T00:00:00Z")
    assert acme.begin("a", **usd(10))["budgets"][0]["reserved"] == 20
    acme.rate("USD", "EUR", "4", "2024-01-01T00:00:00Z")
    assert acme.begin("b", **usd(10))["budgets"][0]["reserved"] == 40


def test_the_same_rate_again_is_no_news(acme: Protocol) -> None:
    for rate in ("2", "2.0", "3", "2"):
        acme.rate("USD", "EUR", rate)
    query = "select spec ->> 'rate' from spanledger_v1.controls where tenant = %s order by applied_at"
    assert [rate for (rate,) in acme.sql.execute(query, (acme.tenant,))] == ["2", "3", "2"]


def test_rates_of_another_tenant_do_not_count(acme: Protocol, other: Protocol) -> None:
    acme.budget("eur", 100)
    other.rate("USD", "EUR", "1")
    assert acme.begin("a", **usd(1))["verdict"] == "budget_exceeded"


@pytest.mark.parametrize("cost", [{"USD": 30}, None, {}])
def test_a_settle_books_at_the_rate_of_its_reservation(acme: Protocol, cost) -> None:
    acme.budget("eur", 100)
    acme.rate("USD", "EUR", "2")
    begun = acme.begin("a", **usd(40))
    acme.rate("USD", "EUR", "3", "2021-01-01T00:00:00Z")
    acme.settle("a", begun, cost=cost)
    assert acme.balance("eur") == (60 if cost else 80, 0)


def test_a_late_settle_books_at_the_rate_of_its_reservation(acme: Protocol) -> None:
    acme.budget("eur", 1000)
    acme.rate("USD", "EUR", "2")
    old = unknown(acme, **usd(40))
    acme.rate("USD", "EUR", "3", "2021-01-01T00:00:00Z")
    running(acme, **RETRY, **usd(40))
    assert acme.balance("eur") == (0, 120)
    acme.settle("a", old, cost={"USD": 50})
    assert acme.balance("eur") == (100, 120)


def test_a_cost_in_a_third_currency_is_converted_too(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.rate("USD", "EUR", "2")
    acme.rate("GBP", "EUR", "1.5")
    acme.settle("a", acme.begin("a", **usd(40)), cost={"GBP": 11})
    assert acme.balance("eur") == (17, 0)


def test_a_cost_that_cannot_be_converted_counts_as_what_was_reserved(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.rate("USD", "EUR", "2")
    acme.settle("a", acme.begin("a", **usd(40)), cost={"CHF": 1})
    assert acme.balance("eur") == (80, 0)


def test_a_cost_that_no_budget_can_count_is_in_history_with_what_was_counted_instead(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.budget("count", 9, "calls")
    acme.rate("USD", "EUR", "2")
    begun = acme.begin("a", **usd(40))
    for _ in range(2):
        acme.settle("a", begun, cost={"CHF": 7, "tokens": 3})
    acme.fail("b", acme.begin("b"), cost={"CHF": 5})
    acme.fail("c", acme.begin("c"), cost={"CHF": 0})
    acme.settle("d", acme.begin("d", **usd(1)), cost={"USD": 2})

    said = {"budget": "eur", "scope": "", "unit": "EUR"}
    assert acme.history("unconverted") == [
        said | {"cost": {"CHF": 7}, "counted": 80}, said | {"cost": {"CHF": 5}, "counted": 0},
    ]  # fmt: skip
    assert (acme.events("a"), acme.balance("eur")) == (["unconverted"], (84, 0))


def test_an_amount_in_the_budgets_own_currency_is_taken_as_it_is(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.rate("USD", "EUR", "2")
    begun = acme.begin("a", reserve={"calls": 1, "USD": 40, "EUR": 7})
    assert begun["budgets"][0]["reserved"] == 7


def test_a_person_who_resolves_a_call_may_give_its_cost_in_another_currency(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.rate("USD", "EUR", "2")
    unknown(acme, **usd(40))
    acme.resolve("a", "succeeded", cost={"USD": 20})
    assert acme.balance("eur") == (40, 0)


def test_an_amount_beyond_counting_is_beyond_every_limit(acme: Protocol) -> None:
    acme.budget("eur", 10**15)
    acme.rate("USD", "EUR", "1e30")
    refused = acme.begin("a", **usd(10**15))
    assert (refused["verdict"], refused["requested"]) == ("budget_exceeded", 10**18)
