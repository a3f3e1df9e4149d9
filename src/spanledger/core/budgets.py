"""A budget: what may be spent, on what, per what, and when it starts anew.

Rules: all budgets that match a call must admit it, and all are reserved together. A budget has one unit: a
currency, tokens or calls. A call that reserves nothing in a budget's unit is admitted while anything is left, and
what it turns out to cost is booked when it settles. What belongs to a window is what was reserved in it. Every tenant's
budgets are its own.
"""

from __future__ import annotations

import datetime as dt
import math
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from spanledger.core.call import OPERATIONS, Call
from spanledger.core.money import Amount, Calls, Money, Tokens
from spanledger.core.rules import matches
from spanledger.errors import ConfigError

DIMENSIONS = ("tenant", "actor", "agent", "workflow", "tool", "model")
WINDOWS = ("hour", "day", "month")
# A rolling window is kept in sixty slices.
WINDOW_S_MIN = 1.0


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on what calls may cost.

    Attributes:
        name: Its name in the ledger.
        limit: The limit; its unit is the budget's unit.
        match: Name of the tools or models it covers; ``*`` stands for any text.
        operations: GenAI operation names it covers: ``"execute_tool"`` for tools; of models ``"chat"``,
            ``"text_completion"``, ``"generate_content"``, ``"embeddings"``, ``"retrieval"``; None for all.
        per: What it is kept apart by, each with the whole limit: ``"actor"``, ``"agent"``, ``"workflow"``, ``"tool"``,
            ``"model"``. Budgets are kept apart by ``"tenant"`` whether that is said or not.
        window: When it starts anew: every calendar ``"hour"``, ``"day"`` or ``"month"``; a number of seconds, rolling:
            what was reserved so long ago counts no more, to a sixtieth of it; None never.
        timezone: Where the calendar is, an IANA name.
        soft: A warning is given, and nothing refused, when a call's reservation goes past it: an amount of the
            limit's unit, or a share of the limit, for example ``0.8``.
    """

    name: str
    limit: Amount
    match: str = field(default="*", kw_only=True)
    operations: tuple[str, ...] | None = field(default=None, kw_only=True)
    per: tuple[str, ...] = field(default=(), kw_only=True)
    window: str | float | None = field(default=None, kw_only=True)
    timezone: str = field(default="UTC", kw_only=True)
    soft: Amount | Decimal | float | None = field(default=None, kw_only=True)

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
            if not self.operations or not all(operation in OPERATIONS for operation in self.operations):
                named = f"operations is a list of {', '.join(OPERATIONS)}"
                raise ConfigError(f"budget {self.name!r}: {named}, not {list(self.operations)!r}")
            object.__setattr__(self, "operations", tuple(self.operations))
        _check_scope(self)
        _check_window(self)
        _check_soft(self)

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
            "per": [dimension for dimension in self.per if dimension != "tenant"],
            "window": "rolling" if isinstance(self.window, int | float) else self.window,
            "window_s": self.window if isinstance(self.window, int | float) else None,
            "timezone": self.timezone,
            "soft": self.soft_steps,
        }

    @property
    def soft_steps(self) -> int | None:
        """The soft limit as the ledger keeps it."""
        if self.soft is None or isinstance(self.soft, Money | Tokens | Calls):
            return None if self.soft is None else self.soft.steps
        return int(self.limit.steps * Decimal(str(self.soft)))


@dataclass(frozen=True, slots=True)
class Balance:
    """How a budget stands.

    Attributes:
        name: Its name.
        limit: The limit, top-ups included; an amount, like the next three.
        spent: What settled calls cost.
        held: What running calls and calls of unknown outcome hold.
        remaining: limit - spent - held.
        scope: Whose it is, for example ``{"actor": "u_42"}``; empty where it is not kept apart.
        window_start: When its present window began; None where it never starts anew.
        match: As of `Budget`, like all that follows.
        operations: Likewise.
        per: Likewise.
        window: Likewise.
        timezone: Likewise.
        soft: Likewise, as an amount.
    """

    name: str
    limit: Amount
    spent: Amount
    held: Amount
    remaining: Amount
    scope: Mapping[str, str | None] = field(default_factory=dict)
    window_start: dt.datetime | None = None
    match: str = "*"
    operations: tuple[str, ...] | None = None
    per: tuple[str, ...] = ()
    window: str | float | None = None
    timezone: str = "UTC"
    soft: Amount | None = None

    @property
    def past_soft(self) -> bool:
        """More is reserved or spent than the soft limit says."""
        return self.soft is not None and self.limit.steps - self.remaining.steps > self.soft.steps


def _check_scope(budget: Budget) -> None:
    per = (budget.per,) if isinstance(budget.per, str) else budget.per
    if not isinstance(per, list | tuple) or not all(dimension in DIMENSIONS for dimension in per):
        raise ConfigError(f"budget {budget.name!r}: per is a list of {', '.join(DIMENSIONS)}, not {budget.per!r}")
    object.__setattr__(budget, "per", tuple(dict.fromkeys(per)))


def _check_window(budget: Budget) -> None:
    window, where = budget.window, f"budget {budget.name!r}"
    if isinstance(window, int | float) and not isinstance(window, bool):
        if not (math.isfinite(window) and window >= WINDOW_S_MIN):
            raise ConfigError(f"{where}: a rolling window has at least {WINDOW_S_MIN:g} s, not {window!r}")
    elif window is not None and window not in WINDOWS:
        raise ConfigError(f"{where}: window is one of {', '.join(WINDOWS)}, or a number of seconds, not {window!r}")
    if budget.timezone == "UTC":
        return
    try:
        zoneinfo.ZoneInfo(budget.timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        # Where the machine has no time zones of its own, the database judges.
        if not isinstance(budget.timezone, str) or zoneinfo.available_timezones():
            raise ConfigError(
                f"{where}: {budget.timezone!r} is not a time zone; use an IANA name such as 'Europe/Berlin'"
            ) from None


def _check_soft(budget: Budget) -> None:
    soft, where = budget.soft, f"budget {budget.name!r}"
    if soft is None:
        return
    if isinstance(soft, Money | Tokens | Calls):
        if soft.unit != budget.limit.unit:
            raise ConfigError(f"{where}: soft is in {soft.unit} and the limit in {budget.limit.unit}")
    elif isinstance(soft, bool) or not isinstance(soft, int | float | Decimal) or not 0 < soft <= 1:
        raise ConfigError(f"{where}: soft is an amount, or a share of the limit between 0 and 1, not {soft!r}")
