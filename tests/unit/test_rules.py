"""Rules: what may stand in one, which applies, and what a call reserves."""

from __future__ import annotations

import decimal
import math
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

import pytest

from spanledger import Calls, Money, Rule, Tokens
from spanledger.core.call import Call
from spanledger.core.reserving import ArgumentAmount
from spanledger.core.rules import LEASE_S, WAIT_TIMEOUT_S, matches, reserved_amounts, terms_for
from spanledger.errors import ConfigError, Undescribable

FRAMEWORK_TOOL = Call("refund", arguments={}, call_id="call_a1")
OWN_TOOL = Call("refund", opted_in=True)
MODEL = Call("gpt-5", operation="chat", call_id="call_a1")


def probe(call: Call, key: str) -> None: ...


# --- what may stand in a rule

SECONDS_THAT_ARE_NONE = [-1, -0.1, math.nan, math.inf, True, "60", [60]]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (name, bad)
        for name in ("replay_for_s", "run_max_s", "wait_timeout_s", "lease_s")
        for bad in SECONDS_THAT_ARE_NONE
    ]
    + [("lease_s", 0), ("lease_s", 0.19)]
    + [("attempts_max", bad) for bad in (0, -1, 1.5, "3", True, math.inf)]
    + [(name, bad) for name in ("side_effect", "keep_result") for bad in ("false", 0, 1, None)]
    + [
        (name, bad)
        for name in ("definite_errors", "ambiguous_errors")
        for bad in (ValueError, (1,), "ValueError", None)
    ]
    + [(name, (object,)) for name in ("definite_errors", "ambiguous_errors")]
    + [("fields", bad) for bad in ("order_id", (), [], (1,), {"order_id"}, 7)]
    + [("probe", bad) for bad in ("module:function", 7, True)]
    + [("reserve", bad) for bad in (40.0, 40, "40 EUR", Decimal(1), (1, "EUR"))]
    + [("identity", bad) for bad in ("argument", "", "occurrences", 1, ["none"])]
    + [("scope", "trace"), ("on_mismatch", "raise"), ("on_unknown", "run"), ("on_failure", "raise")]
    + [("on_refusal", "ignore"), ("on_ledger_down", "run"), ("on_ledger_down", True)],
)
def test_a_value_that_a_field_cannot_have_is_refused_by_the_name_of_rule_and_field(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^rule 'stripe\.\*': {field} is .*not "):
        Rule("stripe.*", **{field: value})


@pytest.mark.parametrize("match", ["", None, 7, ["refund"]])
def test_a_rule_needs_a_name_to_match(match: Any) -> None:
    with pytest.raises(ConfigError, match="a rule needs a name to match"):
        Rule(match)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"identity": "fields"}, "identity='fields' and fields go together"),
        ({"identity": "arguments", "fields": ("a",)}, "identity='fields' and fields go together"),
        ({"on_unknown": "probe"}, "on_unknown='probe' needs a probe"),
        ({"reserve": 40.0}, "never a float"),
        ({"on_unknown": "x"}, "one of ask, retry, probe, not 'x'"),
    ],
)
def test_what_contradicts_itself_is_refused_with_the_way_out(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=f"^rule 'refund': .*{complaint}"):
        Rule("refund", **values)


def test_every_field_of_a_rule_is_checked() -> None:
    unchecked = []
    for field in fields(Rule):
        try:
            Rule(**{"match": "refund", field.name: object()})
        except ConfigError:
            continue
        unchecked.append(field.name)
    assert unchecked == []


def test_all_that_a_rule_may_say_is_accepted() -> None:
    made = Rule(
        "refund",
        fields=["order_id"],
        scope="workflow",
        replay_for_s=0,
        on_mismatch="refuse",
        on_unknown="probe",
        probe=probe,
        on_failure="replay",
        attempts_max=1,
        definite_errors=[ValueError],
        ambiguous_errors=(KeyError, KeyboardInterrupt),
        reserve=lambda arguments: Money(arguments["amount"], "EUR"),
        lease_s=0.2,
        run_max_s=3600,
        wait_timeout_s=0.0,
        keep_result=False,
        on_refusal="tell",
        on_ledger_down="continue",
    )
    assert (made.identity, made.fields, made.definite_errors) == ("fields", ("order_id",), (ValueError,))


def test_a_rule_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Rule("refund").identity = "none"  # type: ignore[misc]


# --- which rule applies


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("refund", "refund", True),
        ("refund", "refunds", False),
        ("refund", "Refund", False),
        ("*", "", True),
        ("*", "any\nthing", True),
        ("stripe.*", "stripe.refund", True),
        ("stripe.*", "stripeXrefund", False),
        ("stripe.*", "my.stripe.refund", False),
        ("*refund*", "stripe.refund.v2", True),
        ("a*b*c", "a-b-c", True),
        ("a*b*c", "a-c-b", False),
        ("refund?", "refunds", False),
        ("[ab]", "a", False),
        ("[ab]*", "[ab]c", True),
        ("a+*", "aab", False),
    ],
)
def test_only_the_star_stands_for_any_text(pattern: str, name: str, fits: bool) -> None:
    assert matches(pattern, name) is fits


def test_the_first_rule_that_matches_counts() -> None:
    rules = [Rule("charge"), Rule("ref*", lease_s=1), Rule("refund", lease_s=2), Rule("*", lease_s=3)]
    assert [terms_for(Call(name), rules).lease_s for name in ("refund", "other")] == [1, 3]
    assert terms_for(Call("refund"), rules).rule == "ref*"


def test_a_call_that_no_rule_names_has_no_rule() -> None:
    terms = terms_for(Call("refund"), [Rule("charge")])
    assert (terms.rule, terms.guarded) == (None, False)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "*"])
def test_a_tool_of_any_name_has_terms(name: str) -> None:
    assert terms_for(Call(name), []).rule is None


# --- what the developer gave at the tool itself

OWN = Rule(
    "refund", fields=("order_id",), lease_s=5, reserve=Money(1, "EUR"), keep_result=False, definite_errors=(KeyError,)
)


def test_the_developers_own_rule_applies_where_nothing_is_configured() -> None:
    terms = terms_for(OWN_TOOL, [], OWN)
    assert (terms.identity, terms.fields, terms.lease_s, terms.keep_result) == ("fields", ("order_id",), 5, False)
    assert (terms.rule, terms.guarded) == (None, True)


def test_what_a_configured_rule_leaves_open_is_filled_from_the_developers_own() -> None:
    terms = terms_for(OWN_TOOL, [Rule("*", lease_s=9, attempts_max=2)], OWN)
    assert (terms.lease_s, terms.attempts_max) == (9, 2)
    assert (terms.identity, terms.fields, terms.reserve) == ("fields", ("order_id",), Money(1, "EUR"))
    assert (terms.keep_result, terms.definite_errors, terms.rule) == (False, (KeyError,), "*")


@pytest.mark.parametrize("configured", [{"identity": "none"}, {"identity": "arguments"}, {"fields": ("amount",)}])
def test_identity_and_fields_come_from_the_same_rule(configured: dict[str, Any]) -> None:
    terms = terms_for(OWN_TOOL, [Rule("refund", **configured)], OWN)
    assert (terms.identity, terms.fields) == (configured.get("identity", "fields"), configured.get("fields"))


@pytest.mark.parametrize("own", [{"probe": probe}, {"probe": probe, "on_unknown": "probe"}])
def test_a_probe_of_the_developers_own_is_used(own: dict[str, Any]) -> None:
    terms = terms_for(OWN_TOOL, [Rule("refund", lease_s=9)], Rule("refund", **own))
    assert (terms.on_unknown, terms.probe) == ("probe", probe)


# --- defaults


@pytest.mark.parametrize(
    ("call", "identity"),
    [
        (OWN_TOOL, "arguments"),
        (replace(OWN_TOOL, call_id="call_a1"), "arguments"),
        (FRAMEWORK_TOOL, "call_id"),
        (replace(FRAMEWORK_TOOL, call_id=None), "none"),
        (replace(FRAMEWORK_TOOL, call_id=""), "none"),
        (replace(FRAMEWORK_TOOL, call_id="unknown"), "none"),
        (MODEL, "none"),
        (replace(MODEL, opted_in=True), "none"),
    ],
)
@pytest.mark.parametrize("rules", [[], [Rule("*", reserve=Calls(1), lease_s=5)]], ids=["no rule", "a price only"])
def test_identity_without_a_word_about_it(call: Call, identity: str, rules: list[Rule]) -> None:
    assert terms_for(call, rules).identity == identity


@pytest.mark.parametrize(
    ("call", "rules", "on_unknown", "on_ledger_down"),
    [
        (OWN_TOOL, [], "ask", "refuse"),
        (OWN_TOOL, [Rule("*", side_effect=False)], "ask", "refuse"),
        (FRAMEWORK_TOOL, [], "retry", "continue"),
        (FRAMEWORK_TOOL, [Rule("*")], "ask", "refuse"),
        (FRAMEWORK_TOOL, [Rule("*", side_effect=False)], "retry", "refuse"),
        (FRAMEWORK_TOOL, [Rule("*", probe=probe)], "probe", "refuse"),
        (FRAMEWORK_TOOL, [Rule("*", side_effect=False, probe=probe)], "probe", "refuse"),
        (OWN_TOOL, [Rule("*", probe=probe, on_unknown="ask", on_ledger_down="continue")], "ask", "continue"),
        (OWN_TOOL, [Rule("*", on_unknown="retry")], "retry", "refuse"),
        (MODEL, [], "retry", "continue"),
        (MODEL, [Rule("gpt-*")], "ask", "refuse"),
    ],
)
def test_doubt_and_silence_are_met_with_caution_where_somebody_asked_for_it(
    call: Call, rules: list[Rule], on_unknown: str, on_ledger_down: str
) -> None:
    terms = terms_for(call, rules)
    assert (terms.on_unknown, terms.on_ledger_down) == (on_unknown, on_ledger_down)


@pytest.mark.parametrize(
    ("key", "said", "on_mismatch"),
    [(None, None, "replay"), ("k", None, "refuse"), ("k", "replay", "replay"), (None, "refuse", "refuse")],
)
def test_other_arguments_under_a_key_of_the_callers_own_are_refused(
    key: str | None, said: str | None, on_mismatch: str
) -> None:
    assert terms_for(replace(OWN_TOOL, key=key), [Rule("*", on_mismatch=said)]).on_mismatch == on_mismatch


def test_what_nobody_said_has_a_default() -> None:
    terms = terms_for(OWN_TOOL, [])
    assert (terms.lease_s, terms.wait_timeout_s, terms.on_failure) == (LEASE_S, WAIT_TIMEOUT_S, "retry")
    assert (terms.replay_for_s, terms.attempts_max, terms.run_max_s, terms.scope) == (None, None, None, None)
    assert (terms.keep_result, terms.on_refusal, terms.reserve) == (True, "raise", None)


def test_not_waiting_at_all_is_not_mistaken_for_saying_nothing() -> None:
    terms = terms_for(OWN_TOOL, [Rule("*", wait_timeout_s=0, replay_for_s=0, run_max_s=0)])
    assert (terms.wait_timeout_s, terms.replay_for_s, terms.run_max_s) == (0, 0, 0)


# --- what a call reserves


def reserved(reserve: Any, arguments: Any = None, **call: Any) -> dict[str, int]:
    asked = Call("refund", arguments=arguments, **call)
    return reserved_amounts(asked, terms_for(asked, [Rule("refund", reserve=reserve)]))


IN_CENTS = ArgumentAmount("amount", "EUR", scale=2)
IN_EUR = ArgumentAmount("amount", "EUR")


@pytest.mark.parametrize(
    ("reserve", "arguments", "expected"),
    [
        (None, {}, {"calls": 1}),
        (Money("40", "EUR"), None, {"calls": 1, "EUR": 40_000_000}),
        (Tokens(4000), {}, {"calls": 1, "tokens": 4000}),
        (Calls(3), {}, {"calls": 3}),
        (lambda arguments: Tokens(arguments["n"] * 2), {"n": 4}, {"calls": 1, "tokens": 8}),
        (lambda arguments: Money(len(arguments), "EUR"), "no mapping", {"calls": 1, "EUR": 0}),
        (IN_CENTS, {"amount": 1050}, {"calls": 1, "EUR": 10_500_000}),
        (IN_CENTS, {"amount": 1050.5}, {"calls": 1, "EUR": 10_505_000}),
        (IN_EUR, {"amount": 10.1}, {"calls": 1, "EUR": 10_100_000}),
        (IN_EUR, {"amount": 1e-6}, {"calls": 1, "EUR": 1}),
        (IN_EUR, {"amount": "10.50"}, {"calls": 1, "EUR": 10_500_000}),
        (IN_EUR, {"amount": Decimal("0.1")}, {"calls": 1, "EUR": 100_000}),
        (ArgumentAmount("n", unit="tokens"), {"n": 7}, {"calls": 1, "tokens": 7}),
        (ArgumentAmount("n", unit="calls"), {"n": 7}, {"calls": 7}),
    ],
)
def test_a_call_reserves_what_its_rule_says_and_counts_as_one(
    reserve: Any, arguments: Any, expected: dict[str, int]
) -> None:
    assert reserved(reserve, arguments) == expected


def test_what_the_call_itself_says_it_costs_wins_over_the_rule() -> None:
    assert reserved(Money("40", "EUR"), {}, cost=Money("1", "USD")) == {"calls": 1, "USD": 1_000_000}


def test_words_where_an_amount_should_be_are_repeated_to_whoever_is_refused() -> None:
    with pytest.raises(Undescribable, match="cannot be read from its arguments: ValueError: 'ten' is not an amount"):
        reserved(IN_EUR, {"amount": "ten"})


@pytest.mark.parametrize(
    "bad", [None, True, "ten", "", -1, -0.01, math.nan, math.inf, "NaN", "1e-7", 1e300, 10**12, [1], {"eur": 1}]
)
def test_an_argument_that_is_no_amount_refuses_the_call(bad: Any) -> None:
    with pytest.raises(Undescribable, match="the price of 'refund' cannot be read from its arguments"):
        reserved(IN_EUR, {"amount": bad})


@pytest.mark.parametrize("arguments", [{}, {"Amount": 1}, None, "10"])
def test_a_missing_argument_refuses_the_call(arguments: Any) -> None:
    with pytest.raises(Undescribable, match="KeyError: 'amount'"):
        reserved(IN_EUR, arguments)


@pytest.mark.parametrize("bad", [1.0, 1.5, "7", True, -1])
def test_an_argument_that_is_no_count_refuses_the_call(bad: Any) -> None:
    with pytest.raises(Undescribable):
        reserved(ArgumentAmount("n", unit="tokens"), {"n": bad})


@pytest.mark.parametrize("bad", [None, 10, 10.0, "10 EUR", Money])
def test_a_callable_that_gives_no_amount_refuses_the_call(bad: Any) -> None:
    with pytest.raises(Undescribable, match="has to be Money, Tokens or Calls"):
        reserved(lambda arguments: bad, {})


def test_a_callable_that_fails_refuses_the_call_and_is_the_cause() -> None:
    with pytest.raises(Undescribable) as refused:
        reserved(lambda arguments: 1 / 0, {})
    assert isinstance(refused.value.__cause__, ZeroDivisionError)


def test_the_decimal_context_of_the_program_changes_no_price() -> None:
    with decimal.localcontext() as context:
        context.prec = 2
        assert reserved(IN_CENTS, {"amount": 123456}) == {"calls": 1, "EUR": 1_234_560_000}


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({}, "give a currency, or a unit, and not both"),
        ({"currency": "EUR", "unit": "tokens"}, "give a currency, or a unit, and not both"),
        ({"currency": "eur"}, "did you mean EUR"),
        ({"unit": "EUR"}, "is not a unit"),
        ({"currency": "EUR", "scale": 2.0}, "scale is a number of decimal places"),
        ({"currency": "EUR", "scale": -1}, "scale is a number of decimal places"),
        ({"currency": "EUR", "scale": True}, "scale is a number of decimal places"),
    ],
)
def test_an_amount_from_an_argument_is_checked_when_it_is_made(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ArgumentAmount("amount", **values)
