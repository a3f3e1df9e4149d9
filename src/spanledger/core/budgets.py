"""A budget: what may be spent, on what.

Rules: all budgets that match a call must admit it, and all are reserved together. A budget has one unit: a
currency, tokens or calls. A call that reserves nothing in a budget's unit is admitted while anything is left, and
what it turns out to cost is booked when it settles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spanledger.core.call import Call
from spanledger.core.money import Amount, Calls, Money, Tokens, amount_of
from spanledger.core.rules import matches
from spanledger.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on what calls may cost.

    Attributes:
        name: Its name in the ledger.
        limit: The limit; its unit is the budget's unit.
        match: Name of the tools or models it covers; ``*`` stands for any text.
        operations: GenAI operation names it covers, for example ``("chat",)``; None for all.
    """

    name: str
    limit: Amount
    match: str = field(default="*", kw_only=True)
    operations: tuple[str, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"a budget needs a name, not {self.name!r}")
        if not isinstance(self.match, str) or not self.match:
            raise ConfigError(f"budget {self.name!r}: match is a name of tools or models, not {self.match!r}")
        if not isinstance(self.limit, Money | Tokens | Calls):
            raise ConfigError(f"budget {self.name!r}: the limit is Money, Tokens or Calls, not {self.limit!r}")
        if self.operations is not None:
            if not isinstance(self.operations, list | tuple):
                raise ConfigError(f"budget {self.name!r}: operations is a list of names, not {self.operations!r}")
            object.__setattr__(self, "operations", tuple(self.operations))

    def covers(self, call: Call) -> bool:
        """Tell whether a call counts against this budget."""
        return (self.operations is None or call.operation in self.operations) and matches(self.match, call.name)

    def control(self) -> dict[str, Any]:
        """The budget as the ledger's `apply` takes it."""
        return {
            "name": self.name,
            "unit": self.limit.unit,
            "limit": self.limit.steps,
            "match": self.match,
            "operations": None if self.operations is None else list(self.operations),
        }


@dataclass(frozen=True, slots=True)
class Balance:
    """How a budget stands.

    Attributes:
        name: Its name.
        limit: The limit, top-ups included; an amount, like the next three.
        spent: What settled calls cost.
        held: What running calls and calls of unknown outcome hold.
        remaining: limit - spent - held.
    """

    name: str
    limit: Amount
    spent: Amount
    held: Amount
    remaining: Amount


def looser(wanted: Iterable[Mapping[str, Any]], held: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say where the ledger is less strict than a program's own budgets.

    Args:
        wanted: What `Budget.control` gives.
        held: Rows of the ledger's budgets.
    """
    limits = {row["name"]: row["limit_steps"] for row in held}
    found = []
    for budget in wanted:
        limit = limits.get(budget["name"])
        if limit is None:
            found.append(f"the ledger has no budget {budget['name']!r}")
        elif limit > budget["limit"]:
            figures = [amount_of(budget["unit"], steps) for steps in (limit, budget["limit"])]
            found.append(f"budget {budget['name']!r} is {figures[0]} in the ledger and {figures[1]} here")
    return found
