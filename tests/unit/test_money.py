"""Amounts: exact on the way in, exact on the way out, and never guessed."""

from __future__ import annotations

import copy
import decimal
import pickle
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanledger import Calls, Money, Tokens
from spanledger.core.money import AMOUNT_MAX, CURRENCIES, amount_of, parse_amount
from spanledger.errors import ConfigError

unhurried = settings(deadline=None, max_examples=100)


@pytest.fixture
def rounding_context() -> Iterator[None]:
    """A program that computes with three digits, rounds silently and prints a small e."""
    with decimal.localcontext() as context:
        context.prec, context.capitals = 3, 0
        context.clear_traps()
        yield


@pytest.mark.parametrize(
    ("amount", "micros"),
    [
        ("12.34", 12_340_000),
        ("0.000001", 1),
        ("1E+3", 1_000_000_000),
        ("-0", 0),
        (" 7 ", 7_000_000),
        (7, 7_000_000),
        (Decimal("0.10"), 100_000),
        ("1." + "0" * 200, 1_000_000),
        ("100000000000", AMOUNT_MAX),
    ],
)
def test_money_is_kept_in_millionths_of_its_currency(amount: Any, micros: int) -> None:
    assert Money(amount, "EUR").micros == micros


@pytest.mark.parametrize(
    ("amount", "complaint"),
    [
        (0.1, r"never a float: write Money\('0.1'"),
        (float("nan"), "never a float"),
        (True, "not bool"),
        (None, "not NoneType"),
        (b"1", "not bytes"),
        ("twelve", "not a decimal number"),
        ("12,34", "not a decimal number"),
        ("", "not a decimal number"),
        ("NaN", "can hold"),
        ("sNaN", "can hold"),
        ("Infinity", "can hold"),
        ("100000000000.000001", "can hold"),
        ("1e999999", "can hold"),
        ("-0.01", "is negative"),
        ("0.0000001", "more than six decimal places"),
        ("1.0000000000000000000000000000000000000000000000000000000000000000000000001", "more than six decimal places"),
        ("1e-999999999", "more than six decimal places"),
    ],
)
def test_an_amount_that_is_not_exact_or_not_possible_is_refused(amount: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Money(amount, "EUR")


@pytest.mark.parametrize("code", ["EURO", "", None, 978, "BTC", "DEM", "XXX", "€"])
def test_an_unknown_currency_is_refused(code: Any) -> None:
    with pytest.raises(ConfigError, match="unknown currency"):
        Money("1", code)


def test_a_currency_in_small_letters_is_refused_and_the_right_one_named() -> None:
    with pytest.raises(ConfigError, match=r"did you mean EUR\?"):
        Money("1", "eur")


@unhurried
@given(st.integers(0, AMOUNT_MAX), st.sampled_from(sorted(CURRENCIES)))
def test_money_survives_every_way_out_and_in(micros: int, currency: str) -> None:
    money = Money.of_micros(micros, currency)
    assert Money(money.amount, currency) == money
    assert parse_amount(str(money)) == money
    assert amount_of(money.unit, money.steps) == money
    assert pickle.loads(pickle.dumps(money)) == money


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "0.00 EUR"),
        (1, "0.000001 EUR"),
        (1_500_000, "1.50 EUR"),
        (1_234_000, "1.234 EUR"),
        (1_000_000_000, "1000.00 EUR"),
        (-1_500_000, "-1.50 EUR"),
        (-1, "-0.000001 EUR"),
    ],
)
def test_money_is_written_with_two_decimal_places_or_as_many_as_it_needs(micros: int, text: str) -> None:
    assert str(Money.of_micros(micros, "EUR")) == text


def test_the_decimal_context_of_the_program_changes_no_amount(rounding_context: None) -> None:
    money = Money("1234567.890123", "EUR")
    assert money.micros == 1_234_567_890_123
    assert str(money) == "1234567.890123 EUR"
    assert str(money.amount) == "1234567.890123"
    with pytest.raises(ConfigError, match="not an amount the ledger can hold"):
        Money("twelve", "EUR")
    with pytest.raises(ConfigError, match="more than six decimal places"):
        Money("1.0000001", "EUR")


def test_money_is_equal_by_amount_and_currency_and_works_as_a_key() -> None:
    assert Money("1.0", "EUR") == Money(1, "EUR")
    assert Money("1", "EUR") != Money("1", "USD")
    assert len({Money("1.0", "EUR"), Money("1", "EUR"), Money("1", "USD")}) == 2


def test_an_amount_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Money("1", "EUR").micros = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Tokens(1).count = 2  # type: ignore[misc]


@pytest.mark.parametrize("kind", [Tokens, Calls])
@pytest.mark.parametrize("count", [1.0, True, "1", None, Decimal(1)])
def test_a_count_that_is_no_whole_number_is_refused(kind: Any, count: Any) -> None:
    with pytest.raises(ConfigError, match=f"{kind.__name__} takes a whole number"):
        kind(count)


@pytest.mark.parametrize("kind", [Tokens, Calls])
@pytest.mark.parametrize("count", [-1, AMOUNT_MAX + 1])
def test_a_count_the_ledger_cannot_hold_is_refused(kind: Any, count: int) -> None:
    with pytest.raises(ConfigError, match="a count is between 0"):
        kind(count)


def test_tokens_and_calls_of_the_same_number_are_different_amounts() -> None:
    assert Tokens(1) != Calls(1)
    assert (str(Tokens(4000)), str(Calls(1))) == ("4000 tokens", "1 calls")
    assert (Tokens(1).unit, Calls(1).unit) == ("tokens", "calls")


@pytest.mark.parametrize("amount", [Money("1.5", "EUR"), Tokens(7), Calls(0), Calls.of_steps(-3), Tokens.of_steps(-1)])
def test_every_amount_survives_pickling_and_copying(amount: Any) -> None:
    assert pickle.loads(pickle.dumps(amount)) == amount
    assert copy.deepcopy(amount) == amount


@pytest.mark.parametrize("amount", [Money("1.5", "EUR"), Tokens(7), Calls(3)])
def test_the_ledger_gives_back_the_amount_it_was_given(amount: Any) -> None:
    assert amount_of(amount.unit, amount.steps) == amount


@pytest.mark.parametrize(
    ("unit", "steps", "text"),
    [("EUR", -2_500_000, "-2.50 EUR"), ("tokens", -5, "-5 tokens"), ("calls", -1, "-1 calls")],
)
def test_a_balance_below_its_limit_is_negative(unit: str, steps: int, text: str) -> None:
    assert str(amount_of(unit, steps)) == text


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("500.00 EUR", Money(500, "EUR")),
        ("  500   EUR ", Money(500, "EUR")),
        ("4000 tokens", Tokens(4000)),
        ("20 calls", Calls(20)),
    ],
)
def test_an_amount_is_read_from_text(text: str, amount: Any) -> None:
    assert parse_amount(text) == amount


@pytest.mark.parametrize(
    "text",
    ["", "500", "EUR", "EUR 500", "500 eur", "500 Tokens", "1.5 tokens", "-1 calls", "² calls", "x calls", "500EUR"],
)
def test_a_text_that_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_amount(text)
