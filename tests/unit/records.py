"""Values of every kind that people return from tools."""

from __future__ import annotations

import dataclasses
import enum
from decimal import Decimal
from typing import NamedTuple, Optional

import pydantic


class Method(enum.Enum):
    CARD = "card"
    BANK = "bank"


class Level(enum.IntEnum):
    LOW = 1


class Colour(str, enum.Enum):  # noqa: UP042 - how it was written before StrEnum
    RED = "red"


class Share(float, enum.Enum):
    HALF = 0.5


class Place(NamedTuple):
    street: str
    number: int = 1


@dataclasses.dataclass(frozen=True)
class Item:
    sku: str
    price: Decimal
    method: Method = Method.CARD


@dataclasses.dataclass
class Order:
    items: list[Item]
    by_sku: dict[str, Item]
    place: Place | None = None
    total: int = dataclasses.field(default=0, init=False)

    def __post_init__(self) -> None:
        self.total = len(self.items)


class Customer(pydantic.BaseModel):
    name: str = pydantic.Field(alias="customerName")
    orders: list[Order] = []
    nickname: Optional[str] = None  # noqa: UP045 - the old way of writing it is still written

    model_config = pydantic.ConfigDict(populate_by_name=True)


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    a: int = 0


ITEM = Item("s-1", Decimal("9.90"), Method.BANK)
ORDER = Order([ITEM], {"$s": ITEM}, Place("Main", 5))
CUSTOMER = Customer(customerName="Ada", orders=[ORDER])
