"""What an operator says about calls besides budgets: switches and the rates of currencies.

Rules: they live in the ledger and are matched there; a program's own file can only be stricter. Where the ledger is
less strict than that file, `looser` says so.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from spanledger.core.approvals import Over
from spanledger.core.moments import moment
from spanledger.core.money import amount_of, known_currency
from spanledger.core.rules import Rule, matches
from spanledger.errors import ConfigError

# A rate of more digits is a mistake, and Postgres would keep them all.
RATE_DIGITS_MAX = 30


@dataclass(frozen=True, slots=True)
class Switch:
    """Stops all calls of some tools, or lets them go on.

    Attributes:
        match: Name of the tools or models; ``*`` stands for any text.
        allowed: False stops them: what runs ends as it would, nothing new begins.
        reason: Told to whoever is refused.
    """

    match: str
    allowed: bool = field(kw_only=True)
    reason: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.match, str) or not self.match:
            raise ConfigError(f"a switch needs a name to match, not {self.match!r}; '*' matches all")
        if not isinstance(self.allowed, bool):
            raise ConfigError(f"switch {self.match!r}: allowed is true or false, not {self.allowed!r}")

    def control(self) -> dict[str, Any]:
        """The switch as the ledger's `apply` takes it."""
        return {"match": self.match, "allowed": self.allowed, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Rate:
    """What one unit of a currency is worth in another, from a day on.

    Attributes:
        source: The currency that is given, ISO 4217.
        target: The currency it is worth something in.
        rate: How much of `target` one of `source` is: text, int or Decimal, never float.
        valid_from: From when on; a date counts from its first moment in UTC.
    """

    source: str
    target: str
    rate: Decimal
    valid_from: dt.datetime

    def __init__(self, source: str, target: str, rate: Decimal | str | int, valid_from: dt.date | str) -> None:
        """Make a rate.

        Args:
            source: The currency that is given, ISO 4217, for example ``"USD"``.
            target: The currency it is worth something in.
            rate: For example ``"0.92"``.
            valid_from: A date or a time with its offset, for example ``"2026-11-24"``.

        Raises:
            ConfigError: An unknown currency, a rate that is no positive number, or no date.
        """
        object.__setattr__(self, "source", known_currency(source))
        object.__setattr__(self, "target", known_currency(target))
        object.__setattr__(self, "rate", _positive(rate, f"rate from {source} to {target}"))
        object.__setattr__(self, "valid_from", moment(valid_from, f"rate from {source} to {target}: valid_from"))
        if source == target:
            raise ConfigError(f"a rate from {source} to itself says nothing")

    def control(self) -> dict[str, Any]:
        """The rate as the ledger's `apply` takes it."""
        return {
            "from_unit": self.source,
            "to_unit": self.target,
            "rate": str(self.rate),
            "valid_from": self.valid_from.isoformat(),
        }


def approval_controls(rules: Iterable[Rule]) -> list[dict[str, Any]]:
    """The approvals that rules ask for, as the ledger's `apply` takes them.

    The first rule that matches counts, so that each says which earlier ones it leaves alone. What a callable asks for
    only the program that has it can decide; the ledger does not hear of it.
    """
    controls: list[dict[str, Any]] = []
    before: list[str] = []
    for rule in rules:
        if isinstance(rule.approval, bool | Over):
            asked: Any = rule.approval
            if isinstance(asked, Over):
                asked = {"unit": asked.amount.unit, "steps": asked.amount.steps}
            if rule.match not in before:
                controls.append({"match": rule.match, "except": list(before), "approval": asked})
        before.append(rule.match)
    return controls


def switch_controls(switches: Iterable[Switch]) -> list[dict[str, Any]]:
    """Switches as the ledger's `apply` takes them; as of rules, the first that matches counts."""
    controls: dict[str, dict[str, Any]] = {}
    for switch in switches:
        earlier = [] if switch.allowed else [c["match"] for c in controls.values() if c["allowed"]]
        controls.setdefault(switch.match, switch.control() | {"except": earlier})
    return list(controls.values())


def stopping(switches: Iterable[Switch], name: str) -> dict[str, Any] | None:
    """Say which switch of a program's own file stops a call; the first that matches counts."""
    for switch in switches:
        if matches(switch.match, name):
            return None if switch.allowed else {"match": switch.match, "reason": switch.reason}
    return None


def looser(
    wanted: Mapping[str, Any], budgets: Iterable[Mapping[str, Any]], controls: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Say where the ledger is less strict than a program's own file.

    Args:
        wanted: What `Config.controls` gives.
        budgets: Rows of the ledger's budgets.
        controls: Rows of its other controls.
    """
    known = {row["name"]: row for row in budgets}
    kept = list(controls)
    found = [said for item in wanted["budgets"] for said in _looser_budget(item, known.get(item["name"]))]
    for item in wanted["approvals"]:
        held = [
            row["spec"].get("approval")
            for row in kept
            if row["kind"] == "approval" and covers(row["match"], item["match"])
        ]
        if item["approval"] is not False and not any(_asks_as_much(one, item["approval"]) for one in held):
            found.append(f"the ledger asks nobody to approve {item['match']!r} where this program's file does")
    for item in wanted["switches"]:
        stops = any(
            row["kind"] == "switch" and stopping_row(row) and covers(row["match"], item["match"]) for row in kept
        )
        if not item["allowed"] and not stops:
            found.append(f"the ledger does not stop {item['match']!r}, and this program's file does")
    return found


def stopping_row(row: Mapping[str, Any]) -> bool:
    """Tell whether a row of the ledger's controls is a switch that stops calls."""
    return row["kind"] == "switch" and not row["spec"].get("allowed", True)


def may_be_about(controls: Iterable[Mapping[str, Any]], name: str, operation: str) -> bool:
    """Tell whether any of the ledger's controls may be about calls of a model; `begin` decides.

    Args:
        controls: What its `controlled` said.
        name: The model's name.
        operation: What is done with it.
    """
    return any(
        matches(one["match"], name) and (one["operations"] is None or operation in one["operations"])
        for one in controls
    )


def covers(pattern: str, other: str) -> bool:
    """Tell whether a match has every name that another one has; in doubt not."""
    # No name has a * of its own, and what the other's * stands for only ever meets one of the pattern's.
    return matches(pattern, other)


def _looser_budget(wanted: Mapping[str, Any], row: Mapping[str, Any] | None) -> Iterator[str]:
    name, unit = wanted["name"], wanted["unit"]
    if row is None:
        yield f"the ledger has no budget {name!r}"
    elif row["unit"] != unit:
        yield f"budget {name!r} is kept in {row['unit']} in the ledger and in {unit} here"
    elif row["base_steps"] > wanted["limit"]:
        limits = [amount_of(unit, steps) for steps in (row["base_steps"], wanted["limit"])]
        yield f"budget {name!r} is {limits[0]} in the ledger and {limits[1]} here"
    elif any(_as_said(wanted[ours]) != _as_said(row[theirs]) for ours, theirs in _TERMS):
        yield f"budget {name!r} covers other calls in the ledger than here, is kept apart or starts anew in another way"


_TERMS = (("match", "match"), ("operations", "operations"), ("per", "per"), ("window", "window_kind"),
          ("window_s", "window_s"), ("timezone", "timezone"))  # fmt: skip


def _as_said(value: Any) -> Any:
    return set(value) if isinstance(value, list) else value


def _asks_as_much(held: Any, wanted: Any) -> bool:
    if isinstance(held, Mapping) and isinstance(wanted, Mapping):
        return bool(held["unit"] == wanted["unit"] and held["steps"] <= wanted["steps"])
    return held is True


def _positive(rate: object, where: str) -> Decimal:
    if isinstance(rate, bool | float) or not isinstance(rate, Decimal | str | int):
        raise ConfigError(f"{where}: write it as text, for example '0.92', not {rate!r}")
    try:
        value = Decimal(rate)
    except InvalidOperation:
        raise ConfigError(f"{where}: {rate!r} is not a decimal number") from None
    if not value.is_finite() or value <= 0 or len(value.as_tuple().digits) > RATE_DIGITS_MAX:
        raise ConfigError(f"{where}: {rate!r} is not a positive number")
    return value
