"""How long what is over is kept, and what came of removing the rest.

Rules: pure. Nothing is removed because a configuration says how long it is kept: somebody has to ask for it. An age is
at least an hour, because what is younger may still count.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from spanledger.errors import ConfigError

AGE_S_MIN: Final = 3600.0
PARTS: Final = ("calls", "trail", "evaluations")
# What a count of the ledger is about.
KINDS: Final = {
    "calls": "calls: what they were made with and what came of them; their keys stay",
    "keys": "calls with their keys",
    "history": "entries of the history of calls",
    "approvals": "requests for a person's consent",
    "windows": "closed windows of budgets",
    "delegations": "expired delegations",
    "trail": "entries of the decision trace",
    "sessions": "sessions with their turns",
    "evaluations": "runs of evaluations",
}
COUNTED_MAX: Final = 100_000
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what is over is kept before `prune` removes it; None of a part: for ever.

    Attributes:
        calls_s: Payloads of calls, their history, requests for consent, closed windows of budgets and expired
            delegations, in seconds since they ended. Keys stay.
        trail_s: The decision trace and sessions.
        evaluations_s: Runs of evaluations.
    """

    calls_s: float | None = None
    trail_s: float | None = None
    evaluations_s: float | None = None

    @classmethod
    def of(cls, value: object) -> Retention:
        """Read how long, as a file says it: ``{"calls": "90d", "trail": "30d"}``.

        Raises:
            ConfigError: It does not say so.
        """
        if isinstance(value, Retention):
            return cls(**{f"{part}_s": age_s(age, part) for part, age in value.ages_s.items()})
        if not isinstance(value, Mapping):
            raise ConfigError('retention says how long what is kept, for example calls = "90d", trail = "30d"')
        unknown = sorted(map(str, value.keys() - set(PARTS)))
        if unknown:
            raise ConfigError(f"retention has {unknown[0]!r}, which is not known; known are {', '.join(PARTS)}")
        return cls(**{f"{part}_s": age_s(age, f"retention of {part}") for part, age in value.items()})

    @classmethod
    def all_of(cls, age: float) -> Retention:
        """Keep everything equally long, in seconds."""
        return cls.of(cls(age, age, age))

    @property
    def ages_s(self) -> dict[str, float]:
        """Part → how long it is kept, where it is not for ever."""
        ages = {"calls": self.calls_s, "trail": self.trail_s, "evaluations": self.evaluations_s}
        return {part: age for part, age in ages.items() if age is not None}


def age_s(value: object, what: str) -> float:
    """Read how long: ``"90d"``, ``"12h"``, ``"4w"``, or seconds.

    Args:
        value: What was given.
        what: What it is about, for the error.

    Raises:
        ConfigError: It is none of them, or less than an hour.
    """
    given = re.fullmatch(r"(\d{1,6})([smhdw])", value) if isinstance(value, str) else None
    seconds = float(int(given[1]) * _UNITS_S[given[2]]) if given else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ConfigError(f"{what} is an age like '90d', '12h' or '4w', not {value!r}")
    if seconds < AGE_S_MIN:
        raise ConfigError(f"{what} is at least an hour, not {value!r}: what is younger may still count")
    return float(seconds)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, or would be.

    Attributes:
        counts: How many of each kind, as `KINDS` names them.
        before: Part → what had ended before this moment, on the ledger's clock.
        dry_run: Nothing was removed. At most 100,000 of each kind are counted then.
    """

    counts: Mapping[str, int]
    before: Mapping[str, dt.datetime]
    dry_run: bool = False

    def with_more(self, answer: Mapping[str, Any]) -> Pruned:
        """Add what the ledger said of one more batch."""
        counts = {kind: self.counts.get(kind, 0) + count for kind, count in answer["counts"].items()}
        before = {part: dt.datetime.fromisoformat(at) for part, at in answer["before"].items()}
        return Pruned(counts, before, self.dry_run)


def left_out(prunings: Iterable[Mapping[str, Any]], part: str, since: dt.datetime | None = None) -> str | None:
    """Say what cannot be seen any more; None where nothing that was asked for is missing.

    Args:
        prunings: Rows of the ledger's view of that name.
        part: What was looked at: ``"calls"``, ``"trail"`` or ``"evaluations"``.
        since: Nothing older was asked for.
    """
    for row in prunings:
        before = dt.datetime.fromisoformat(row["before"])
        if row["part"] == part and (since is None or since < before):
            kept = "" if part != "calls" or row["forgot_keys"] else "; the keys of tools are kept"
            return f"what ended before {before.astimezone():%Y-%m-%d %H:%M} was pruned by {row['by_name']}{kept}"
    return None
