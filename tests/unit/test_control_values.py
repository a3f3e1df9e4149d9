"""Switches and rates: checked when they are made; and where a ledger is less strict than a file."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest

from spanledger import Budget, Calls, Config, Money, Rate, Rule, Switch, over
from spanledger.core.controls import approval_controls, covers, looser, stopping
from spanledger.errors import ConfigError

NONE: dict[str, list[Any]] = {"budgets": [], "approvals": [], "switches": []}


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Switch("", allowed=False), r"a switch needs a name to match, not ''"),
        (lambda: Switch(7, allowed=False), r"a switch needs a name to match, not 7"),
        (lambda: Switch("refund", allowed="no"), r"switch 'refund': allowed is true or false, not 'no'"),
        (lambda: Rate("usd", "EUR", "1", "2026-01-01"), r"unknown currency 'usd' \(did you mean USD\?\)"),
        (lambda: Rate("USD", "XXX?", "1", "2026-01-01"), r"unknown currency 'XXX\?'"),
        (lambda: Rate("EUR", "EUR", "1", "2026-01-01"), r"a rate from EUR to itself says nothing"),
        (lambda: Rate("USD", "EUR", 0.92, "2026-01-01"), r"write it as text, for example '0.92', not 0.92"),
        (lambda: Rate("USD", "EUR", True, "2026-01-01"), r"write it as text"),
        (lambda: Rate("USD", "EUR", "much", "2026-01-01"), r"rate from USD to EUR: 'much' is not a decimal number"),
        (lambda: Rate("USD", "EUR", "0", "2026-01-01"), r"'0' is not a positive number"),
        (lambda: Rate("USD", "EUR", "-1", "2026-01-01"), r"not a positive number"),
        (lambda: Rate("USD", "EUR", "NaN", "2026-01-01"), r"not a positive number"),
        (lambda: Rate("USD", "EUR", "1." + "1" * 30, "2026-01-01"), r"not a positive number"),
        (lambda: Rate("USD", "EUR", "1", "soon"), r"valid_from: 'soon' is no date or time; write '2026-12-31'"),
        (lambda: Rate("USD", "EUR", "1", 2026), r"valid_from is a date or a time, not 2026"),
        (lambda: Config(switches=["refund"]), r"switches is a list of Switch"),
        (lambda: Config(rates=[Switch("a", allowed=True)]), r"rates is a list of Rate"),
        (lambda: Config(on_approval_needed="tell"), r"on_approval_needed is a callable of an Approval"),
    ],
)
def test_a_control_that_cannot_be_is_refused(make: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        make()


@pytest.mark.parametrize(
    ("valid_from", "moment"),
    [
        ("2026-11-24", "2026-11-24T00:00:00+00:00"),
        (dt.date(2026, 11, 24), "2026-11-24T00:00:00+00:00"),
        ("2026-11-24T12:00:00+02:00", "2026-11-24T12:00:00+02:00"),
        (dt.datetime.fromisoformat("2026-11-24T12:00"), "2026-11-24T12:00:00+00:00"),
    ],
)
def test_a_rate_counts_from_the_first_moment_of_its_day_in_utc_or_from_its_moment(valid_from: Any, moment: str) -> None:
    rate = Rate("USD", "EUR", Decimal("0.92"), valid_from)
    assert rate.control() == {"from_unit": "USD", "to_unit": "EUR", "rate": "0.92", "valid_from": moment}


def test_of_a_file_s_switches_the_first_that_matches_counts() -> None:
    switches = [Switch("stripe.read*", allowed=True), Switch("stripe.*", allowed=False, reason="closed")]
    assert stopping(switches, "stripe.read_refunds") is None
    assert stopping(switches, "stripe.refund") == {"match": "stripe.*", "reason": "closed"}
    assert stopping(switches, "mail") is None


def test_the_approvals_of_rules_are_told_to_the_ledger_in_the_order_of_the_file() -> None:
    rules = [
        Rule("a", approval=True),
        Rule("b", approval=lambda _: True),
        Rule("*", approval=over(Calls(1))),
        Rule("a"),
    ]
    assert approval_controls(rules) == [
        {"match": "a", "except": [], "approval": True},
        {"match": "*", "except": ["a", "b"], "approval": {"unit": "calls", "steps": 1}},
    ]


# --- less strict


def row(kind: str, match: str, spec: Any) -> dict[str, Any]:
    return {"kind": kind, "match": match, "spec": spec}


@pytest.mark.parametrize(
    ("pattern", "other", "has_all"),
    [
        ("*", "refund", True),
        ("refund", "refund", True),
        ("ref*", "refund*", True),
        ("refund*", "ref*", False),
        ("refund", "ref*", False),
        ("a*c", "a*b*c", True),
        ("*b", "a*", False),
    ],
)
def test_a_match_covers_another_where_it_has_all_its_names(pattern: str, other: str, has_all: bool) -> None:
    assert covers(pattern, other) is has_all


@pytest.mark.parametrize(
    ("wanted", "held", "strict"),
    [
        (True, True, True),
        (True, {"unit": "EUR", "steps": 1}, False),
        (True, False, False),
        ({"unit": "EUR", "steps": 5}, True, True),
        ({"unit": "EUR", "steps": 5}, {"unit": "EUR", "steps": 5}, True),
        ({"unit": "EUR", "steps": 5}, {"unit": "EUR", "steps": 6}, False),
        ({"unit": "EUR", "steps": 5}, {"unit": "USD", "steps": 1}, False),
        (False, False, True),
    ],
)
def test_an_approval_of_the_ledger_is_compared_with_the_file_s(wanted: Any, held: Any, strict: bool) -> None:
    file = NONE | {"approvals": [{"match": "refund", "except": [], "approval": wanted}]}
    assert (looser(file, [], [row("approval", "ref*", {"approval": held})]) == []) is strict


def test_a_stop_of_the_ledger_is_compared_with_the_file_s() -> None:
    file = NONE | {"switches": [Switch("wire", allowed=False).control(), Switch("mail", allowed=True).control()]}
    said = ["the ledger does not stop 'wire', and this program's file does"]
    assert looser(file, [], []) == said
    assert looser(file, [], [row("switch", "wire", {"allowed": True})]) == said
    assert looser(file, [], [row("switch", "*", {"allowed": False})]) == []


def kept(**changes: Any) -> dict[str, Any]:
    return {
        "name": "b",
        "unit": "EUR",
        "base_steps": 5_000_000,
        "limit_steps": 9_000_000,
        "match": "refund",
        "operations": None,
        "per": ["actor"],
        "window_kind": "day",
        "window_s": None,
        "timezone": "UTC",
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"base_steps": 4_000_000}, None),
        ({"base_steps": 6_000_000}, "budget 'b' is 6.00 EUR in the ledger and 5.00 EUR here"),
        ({"unit": "USD"}, "budget 'b' is kept in USD in the ledger and in EUR here"),
        ({"match": "ref"}, "budget 'b' covers other calls"),
        ({"per": []}, "budget 'b' covers other calls"),
        ({"window_kind": None}, "budget 'b' covers other calls"),
        ({"name": "c"}, "the ledger has no budget 'b'"),
    ],
)
def test_a_budget_of_the_ledger_is_compared_without_its_top_ups(changes: dict[str, Any], said: str | None) -> None:
    budget = Budget("b", Money(5, "EUR"), match="refund", per=("actor",), window="day")
    found = looser(NONE | {"budgets": [budget.control()]}, [kept(**changes)], [])
    assert [text[: len(said or "")] for text in found] == ([] if said is None else [said])
