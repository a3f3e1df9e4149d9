"""What is kept of a result comes back: equal, and of the same types."""

from __future__ import annotations

import json
import typing
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Optional, Union

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import CUSTOMER, ITEM, ORDER, Colour, Customer, Item, Level, Method, Open, Order, Place

from spanledger.core.money import Money
from spanledger.core.values import NotJsonError, canonical, decode, decode_as, encode, serialize

unhurried = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(st.characters(codec="utf-8"), max_size=8)
zones = st.integers(-24 * 60 + 1, 24 * 60 - 1).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1))  # noqa: DTZ001 - with and without a zone
leaves = (
    st.none()
    | st.booleans()
    | texts
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(allow_nan=False)
    | moments
    | st.builds(lambda moment, zone: moment.replace(tzinfo=zone), moments, zones)
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.binary(max_size=8)
)
hashable = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3), max_leaves=6
)
values = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(hashable, inner, max_size=3)
        | st.dictionaries(st.sampled_from(["$", "$$", "$decimal", "$tuple", "$record", "a"]), inner, max_size=3)
        | st.sets(hashable, max_size=3)
    ),
    max_leaves=12,
)


def through_json(value: Any) -> Any:
    """What comes back from the ledger, which keeps the text."""
    return json.loads(serialize(encode(value, exact=True)))


def identity(value: Any) -> bytes:
    return canonical(encode(value))


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            same(a, b) for a, b in zip(sorted_pairs(one), sorted_pairs(other), strict=True)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def sorted_pairs(mapping: dict[Any, Any]) -> list[tuple[Any, Any]]:
    return sorted(mapping.items(), key=lambda pair: identity(pair[0]))


@unhurried
@given(values)
def test_whatever_is_kept_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    assert same(decode(through_json(value)), value)


@pytest.mark.parametrize(
    "value",
    [
        (),
        [(1, [2.5])],
        {"$": 1, "$$": 2, "$decimal": "x", "$$tuple": ()},
        {(1, 2): {3}, None: frozenset({4}), 1.5: b"\x00"},
        Decimal("-0.00"),
        Decimal("1E+100"),
        datetime(2026, 1, 1, 1, 2, 3, 4),  # noqa: DTZ001 - without a zone it stays so
        time(23, 59, tzinfo=timezone(timedelta(hours=-5))),
        timedelta(microseconds=-1),
        timedelta.max,
        [Path("/srv/a b.pdf"), Path()],
    ],
)
def test_every_tag_comes_back(value: Any) -> None:
    assert same(decode(through_json(value)), value)


@pytest.mark.parametrize("number", [1.0, -0.0, 1e20, 4.916144292309475e16, 2**60, 10**21, True])
def test_a_number_that_is_kept_comes_back_as_the_kind_of_number_it_was(number: float) -> None:
    back = through_json([number])[0]
    assert (type(back), repr(back)) == (type(number), repr(number))


def test_keys_that_are_kept_come_back_in_their_order() -> None:
    assert list(decode(through_json({"b": 1, "a": 2, "$c": 3}))) == ["b", "a", "$c"]


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, [10**5000]])
def test_what_the_ledger_cannot_hold_is_not_written(value: Any) -> None:
    with pytest.raises(NotJsonError):
        serialize(encode(value, exact=True))


def test_without_an_annotation_records_come_back_as_dicts_and_enums_as_their_values() -> None:
    assert decode(through_json([Place("Main"), Method.CARD])) == [{"street": "Main", "number": 1}, "card"]


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (ITEM, Item),
        (Money("12.34", "EUR"), Money),
        ([Money("1", "VND")], list[Money]),
        (ORDER, Order),
        (CUSTOMER, Customer),
        (Open(a=1, b=[2]), Open),
        (Place("Main"), Place),
        (Method.BANK, Method),
        (Level.LOW, Level),
        (Colour.RED, Colour),
        ([ITEM, ITEM], list[Item]),
        ([ITEM, ITEM], typing.List[Item]),  # noqa: UP006 - the old way of writing it is still written
        ([[ITEM]], list[list[Item]]),
        ({"$a": ITEM, "b": ITEM}, dict[str, Item]),
        ((ITEM, Method.CARD, 1), tuple[Item, Method, int]),
        ((ITEM, ITEM), tuple[Item, ...]),
        ((), tuple[Item, ...]),
        ((), tuple[()]),
        (ITEM, typing.Annotated[Item, "priced"]),
        (ITEM, Item | None),
        (None, Item | None),
        (None, Optional[Item]),  # noqa: UP045 - likewise
        (CUSTOMER, Union[Item, Customer]),  # noqa: UP007 - likewise
        (Method.CARD, Item | Method | str),
        ("card", Item | Method | str),
        ([ITEM], list[Item] | Item | None),
        ((ITEM,), list[Item] | tuple[Item] | None),
        ({"a": ITEM}, dict[str, Item] | str),
        ({"id": "r-1"}, dict[str, Any] | Item),
        ({"id": "r-1", "n": (1, 2)}, dict[str, typing.Any]),
        ([1, (2, 3)], list),
        ([1, 2], typing.List),  # noqa: UP006 - likewise
        ({"a": 1}, typing.Dict),  # noqa: UP006 - likewise
        ((1, 2), typing.Tuple),  # noqa: UP006 - likewise
        ({"a": (1,)}, None),
        ({"a": (1,)}, Any),
        ("done", str),
        (Decimal("1.10"), Decimal),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime),
    ],
)
def test_an_annotation_brings_the_types_back(value: Any, annotation: Any) -> None:
    assert same(decode_as(through_json(value), annotation), value)


def test_what_a_dataclass_computes_for_itself_is_computed_again() -> None:
    back = decode_as(through_json(ORDER), Order)
    assert (back.total, back.items[0], back.place) == (1, ITEM, Place("Main", 5))


def test_an_annotation_that_is_not_what_was_returned_builds_nothing() -> None:
    assert decode_as(through_json(ITEM), str) == decode(through_json(ITEM))
    assert decode_as(through_json("text"), Item) == "text"
    assert decode_as(through_json([ITEM]), dict[str, Item]) == [decode(through_json(ITEM))]


def test_a_row_of_the_ledger_cannot_name_what_is_built() -> None:
    tree = {"$record": ["Popen", {"args": "rm"}]}
    assert decode(tree) == {"args": "rm"}
    assert decode_as(tree, Any) == {"args": "rm"}
    assert decode_as(tree, Item | Customer) == {"args": "rm"}
