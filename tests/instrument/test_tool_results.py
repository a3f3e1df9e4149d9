"""What a replayed `@tool` gives back: an equal value of the same type, or nothing."""

from __future__ import annotations

import dataclasses
import enum
from decimal import Decimal
from typing import NamedTuple

import pydantic
import pytest

from spanledger import Rule, errors, tool, workflow


@dataclasses.dataclass(frozen=True)
class Receipt:
    order_id: str
    amount: Decimal
    notes: tuple[str, ...] = ()


class Invoice(pydantic.BaseModel):
    number: int
    receipts: list[Receipt]


class Method(enum.StrEnum):
    CARD = "card"


class Point(NamedTuple):
    x: int
    y: int


def json_values() -> dict:
    return {"a": [1, "x", None, True, 1.5], "b": {"$c": {}}, "big": 2**70, "d": Decimal("1.10")}


def a_float() -> float:
    return 2.0


def pair() -> tuple[int, list[tuple[str, int]]]:
    return 1, [("a", 2)]


def receipt() -> Receipt:
    return Receipt("o-1", Decimal("10.00"), ("a", "b"))


def invoice() -> Invoice:
    return Invoice(number=1, receipts=[receipt()])


def invoices() -> list[Invoice]:
    return [invoice(), Invoice(number=2, receipts=[])]


def maybe_receipt() -> Receipt | None:
    return receipt()


def no_receipt() -> Receipt | None:
    return None


def by_method() -> dict[str, Method]:
    return {"by": Method.CARD}


def point() -> Point:
    return Point(1, 2)


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize(
    "function",
    [json_values, a_float, pair, receipt, invoice, invoices, maybe_receipt, no_receipt, by_method, point],
    ids=lambda function: function.__name__,
)
def test_a_replay_gives_an_equal_value_of_the_same_type(function, spans):
    guarded = tool(function)
    first, second = guarded(), guarded()
    assert second == first == function()
    assert repr(second) == repr(first)
    assert [s.attributes["spanledger.verdict"] for s in spans.all(f"execute_tool {function.__name__}")] == [
        "run",
        "replay",
    ]


@pytest.mark.usefixtures("guarded")
def test_a_result_that_would_not_come_back_equal_is_returned_but_not_kept(spans, ledger):
    made = []

    @tool
    def unannotated():
        made.append(receipt())
        return made[0]

    assert unannotated() is made[0]
    assert spans.one("execute_tool unannotated").attributes["spanledger.call.result_kept"] is False
    with pytest.raises(errors.ResultNotKept) as caught:
        unannotated()
    assert len(made) == 1
    assert ledger.get(caught.value.key)["state"] == "succeeded"


def test_a_result_that_is_too_large_or_not_wanted_is_not_kept(instrument):
    instrument(result_bytes_max=10, rules=[Rule("secret", keep_result=False)])
    large, secret = tool("large")(lambda: "x" * 20), tool("secret")(lambda: 1)
    with workflow("w"):
        assert (large(), secret()) == ("x" * 20, 1)
        for function in (large, secret):
            with pytest.raises(errors.ResultNotKept):
                function()
