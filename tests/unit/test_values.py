"""Values as JSON: what is the same stays the same, and what differs stays different."""

from __future__ import annotations

import decimal
import json
import math
from collections import OrderedDict
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
import rfc8785
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import Colour, Customer, Item, Level, Method, Open, Place, Share

from spanledger.core.values import DEPTH_MAX, NotJsonError, canonical, canonical_of, decode, encode, serialize

unhurried = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])

EXACT_IN_FLOAT = 2**53
texts = st.text(st.characters(codec="utf-8"), max_size=8)
numbers = st.integers(-EXACT_IN_FLOAT + 1, EXACT_IN_FLOAT - 1) | st.floats(allow_nan=False, allow_infinity=False)
documents = st.recursive(
    st.none() | st.booleans() | texts | numbers,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def through_json(value: Any) -> Any:
    """What comes back from the ledger, which keeps the text."""
    return json.loads(serialize(encode(value, exact=True)))


def identity(value: Any) -> bytes:
    return canonical(encode(value))


# --- canonical


@unhurried
@given(documents)
def test_canonical_agrees_with_the_reference_implementation_of_rfc_8785(document: Any) -> None:
    assert canonical(document) == rfc8785.dumps(document)


@unhurried
@given(documents | st.dictionaries(st.sampled_from(["a", "é", "\ue000", "\U00010000", "$", "$$a"]), documents))
def test_the_fast_way_to_the_canonical_form_is_no_other_form(document: Any) -> None:
    assert canonical_of(document) == identity(document)


@pytest.mark.parametrize("value", ["\ud800", ["\udfff"], {"a": "\ud800"}, [10**5000]], ids=["1", "2", "3", "long"])
def test_the_fast_way_refuses_what_the_other_refuses(value: Any) -> None:
    for write in (identity, canonical_of):
        with pytest.raises(NotJsonError):
            write(value)


@settings(deadline=None, max_examples=500)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_written_as_ecmascript_writes_it(number: float) -> None:
    assert canonical(number) == rfc8785.dumps(number)
    assert float(canonical(number)) == number


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (-1.5, "-1.5"),
        (1e21, "1e+21"),
        (123456789012345680000.0, "123456789012345680000"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (1.5e-9, "1.5e-9"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (333333333.33333329, "333333333.3333333"),
    ],
)
def test_floats_of_the_standard_have_the_text_of_the_standard(number: float, text: str) -> None:
    assert canonical(number).decode() == text


@given(st.integers(-EXACT_IN_FLOAT, EXACT_IN_FLOAT))
@unhurried
def test_an_integer_and_the_float_that_equals_it_are_the_same_number(number: int) -> None:
    assert identity({"amount": number}) == identity({"amount": float(number)})


@pytest.mark.parametrize("number", [2**53 + 1, 10**30 + 1, -(2**64) - 1])
def test_integers_beyond_the_precision_of_floats_stay_exact(number: int) -> None:
    assert canonical(number) == str(number).encode()
    assert identity(number) != identity(number - 1)


def test_keys_are_ordered_by_their_utf_16_code_units() -> None:
    # By code points U+FB33 would come before U+1F600, which begins with the unit D83D.
    document = {"\ufb33": 1, "\U0001f600": 2, "\u20ac": 3, "\r": 4, "1": 5, "": 6}
    assert list(json.loads(canonical(document))) == ["", "\r", "1", "\u20ac", "\U0001f600", "\ufb33"]
    assert canonical(document) == rfc8785.dumps(document)


def test_the_order_of_keys_in_a_dict_does_not_matter() -> None:
    assert identity({"a": 1, "b": [{"c": 1, "d": 2}]}) == identity({"b": [{"d": 2, "c": 1}], "a": 1})


@pytest.mark.parametrize("text", ["\x00\x1f\x7f", '"\\/', "\u2028\u2029", "é", "\U0001f600", "\b\t\n\f\r"])
def test_strings_are_escaped_no_more_than_they_have_to_be(text: str) -> None:
    assert canonical(text) == rfc8785.dumps(text)


def test_composed_and_decomposed_letters_are_different_texts() -> None:
    assert identity("\u00e9") != identity("e\u0301")


# --- identity: what a retry may change, and what makes another call


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1, 2], (1, 2)),
        ({"a": 1}, OrderedDict(a=1)),
        ({"a": 1}, MappingProxyType({"a": 1})),
        ({"street": "Main", "number": 5}, Place("Main", 5)),
        ({"sku": "s", "price": Decimal(1), "method": Method.CARD}, Item("s", Decimal(1))),
        ({"name": "Ada", "orders": [], "nickname": None}, Customer(customerName="Ada")),
        (1, Level.LOW),
        ("red", Colour.RED),
        (0.5, Share.HALF),
        ({"red": 1}, {Colour.RED: 1}),
        ({1, 2, 3}, {3, 2, 1}),
        (datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))),
    ],
)
def test_the_same_thing_said_in_another_way_is_the_same(one: Any, other: Any) -> None:
    assert identity(one) == identity(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, "1"),
        (None, "null"),
        (None, False),
        ("", None),
        ({}, []),
        ({"a": None}, {}),
        ({1: "a"}, {"1": "a"}),
        ([1, 2], [2, 1]),
        ([[1], 2], [1, [2]]),
        ({1, 2}, [1, 2]),
        (b"1", "1"),
        (b"1", "MQ=="),
        (Decimal("1.1"), "1.1"),
        (Decimal("1.10"), Decimal("1.1")),
        (date(2026, 1, 1), "2026-01-01"),
        (datetime(2026, 1, 1), date(2026, 1, 1)),  # noqa: DTZ001 - that is the point
        (datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)),  # noqa: DTZ001 - that is the point
        (Method.CARD, "card"),
        (Method.CARD, Method.BANK),
        (UUID(int=1), str(UUID(int=1))),
        (timedelta(seconds=1), 1),
        (Open(a=1, b=1), Open(a=1, b=2)),
        (Open(a=1), Open(a=1, b=2)),
        (Item("s", Decimal(1)), Item("s", Decimal(2))),
    ],
)
def test_different_things_are_different(one: Any, other: Any) -> None:
    assert identity(one) != identity(other)


@pytest.mark.parametrize(
    ("tag", "tagged"),
    [
        ({"$decimal": "1.1"}, Decimal("1.1")),
        ({"$bytes": "MQ=="}, b"1"),
        ({"$tuple": [1]}, (1,)),
        ({"$set": [1]}, {1}),
        ({"$pairs": [[1, 2]]}, {1: 2}),
        ({"$record": ["Place", {"street": "Main", "number": 5}]}, Place("Main", 5)),
        ({"$enum": ["Method", "card"]}, Method.CARD),
        ({"$date": "2026-01-01"}, date(2026, 1, 1)),
    ],
)
def test_a_dict_of_the_user_cannot_pass_for_a_tag(tag: dict[str, Any], tagged: Any) -> None:
    assert encode(tag, exact=True) != encode(tagged, exact=True)
    assert identity(tag) != identity(tagged)
    assert decode(through_json(tag)) == tag


def test_a_text_with_a_meaning_of_its_own_is_compared_by_what_it_holds() -> None:
    class Masked(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "***"

    class Odd(int):
        def __repr__(self) -> str:
            return "odd"

        __str__ = __repr__

    assert identity(Masked("secret")) == identity("secret")
    assert identity({Masked("$k"): 1}) == identity({"$k": 1})
    assert identity(Odd(7)) == identity(7)


def test_a_float_of_a_library_is_compared_by_its_number() -> None:
    class Float64(float):
        """Like numpy's."""

        def __repr__(self) -> str:
            return f"np.float64({float(self)})"

    assert identity(Float64(1.5)) == identity(1.5)
    assert decode(through_json(Float64(0.1))) == 0.1


def test_the_decimal_context_of_the_program_changes_nothing() -> None:
    samples = [0.123456789, 1234567890.5, Decimal("1.23456789E+50"), timedelta(days=999_999_999, microseconds=1)]
    expected = [identity(sample) for sample in samples]
    with decimal.localcontext() as context:
        context.prec, context.capitals = 3, 0
        assert [identity(sample) for sample in samples] == expected
        assert decode(through_json(samples)) == samples


# --- what has no JSON form


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [math.nan], {"a": {"b": math.inf}}])
def test_a_float_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(NotJsonError, match="is not a number JSON knows"):
        encode(value)


@pytest.mark.parametrize("value", [object(), [object()], {"a": len}, Place, Customer, Item, bytearray(b"1"), 1j, ...])
@pytest.mark.parametrize("exact", [True, False])
def test_an_object_without_a_json_form_is_refused(value: Any, exact: bool) -> None:
    with pytest.raises(NotJsonError, match="has no JSON form"):
        encode(value, exact=exact)


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, ["a", "\ud83d"], {"a": {1, "\ud800"}}])
def test_half_of_a_surrogate_pair_is_refused(value: Any) -> None:
    with pytest.raises(NotJsonError, match="surrogate"):
        identity(value)


def test_an_integer_too_long_to_be_written_is_refused() -> None:
    with pytest.raises(NotJsonError, match="digits"):
        identity(10**5000)


@pytest.mark.parametrize("zone_hours", [-1, 1])
def test_a_moment_that_does_not_exist_in_utc_is_refused(zone_hours: int) -> None:
    zone = timezone(timedelta(hours=zone_hours))
    with pytest.raises(NotJsonError, match="out of range"):
        encode(datetime(1, 1, 1, tzinfo=zone) if zone_hours > 0 else datetime(9999, 12, 31, 23, tzinfo=zone))


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}, lambda inner: (inner,)])
def test_nesting_is_bounded(wrap: Any) -> None:
    def nested(levels: int) -> Any:
        value: Any = []
        for _ in range(levels):
            value = wrap(value)
        return value

    assert decode(through_json(nested(DEPTH_MAX))) == nested(DEPTH_MAX)
    with pytest.raises(NotJsonError, match=f"deeper than {DEPTH_MAX}"):
        encode(nested(DEPTH_MAX + 1))


def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(NotJsonError, match="deeper"):
        encode(endless)


def test_what_is_plain_json_is_its_own_tree():
    value = {"a": [1, "b", None, True, {"c": {}}]}

    assert encode(value) is value
    assert encode(value, exact=True) is value


@pytest.mark.parametrize("value", [{"$a": 1}, [(1,)], {"é": (1, 2)}, {"a": {1}}, [1.5, (2,)]])
def test_what_is_not_plain_json_has_a_tree_of_its_own_at_any_depth(value):
    assert decode(encode(value, exact=True)) == value
    assert json.loads(serialize(encode(value, exact=True))) == encode(value, exact=True)


def test_a_time_that_is_kept_comes_back_at_the_hour_and_on_the_day_that_it_was_given() -> None:
    at = datetime(2026, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=2)))
    back = decode(encode(at, exact=True))
    assert (back, back.isoformat()) == (at, at.isoformat())
    assert encode(at) == encode(at.astimezone(UTC))
