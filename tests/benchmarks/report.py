"""What a benchmark found out, as values and as text.

Rules: rounds of all contenders alternate, and the figure to quote is the median of the ratios of neighbouring rounds:
it holds where the machine's speed drifts. Absolute figures are medians of the same rounds and hold for one machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Round = Callable[[], float]
Slice = Callable[[int], list[float]]
Rows = list[dict[str, float]]
MS, PER_S = "ms", "calls/s"


@dataclass
class Comparison:
    """Rounds of ours, of a floor, and perhaps of others.

    Attributes:
        name: What was compared.
        rows: Per round: contender → seconds, or calls per second.
        unit: `MS`, where less is better, or `PER_S`, where more is better.
        target: What the ratio to the floor should be, in words.
        absolute: What our own figure should be, in words.
        extra: Further figures.
    """

    name: str
    rows: Rows
    unit: str = MS
    target: str = ""
    absolute: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def ratios(self, contender: str) -> list[float]:
        """Ratios of one contender to the floor, in order of size."""
        return sorted(row[contender] / row["floor"] for row in self.rows)

    def median(self, contender: str) -> float:
        """Median of one contender, in the unit."""
        return statistics.median(row[contender] for row in self.rows) * (1e3 if self.unit == MS else 1)

    def data(self) -> dict[str, Any]:
        """All of it, for a program."""
        found = {
            name: {"median": self.median(name), "ratio": _spread(self.ratios(name))}
            for name in self.rows[0]
        }  # fmt: skip
        return {"name": self.name, "unit": self.unit, "rounds": len(self.rows), "contenders": found} | self.extra

    def text(self) -> str:
        """Lines for people."""
        direction = "less" if self.unit == MS else "more"
        wanted = "; ".join(part for part in (self.target and f"target {self.target}", self.absolute) if part)
        lines = [f"{self.name} [{self.unit}; {direction} is better{f'; {wanted}' if wanted else ''}]"]
        for name in self.rows[0]:
            ratio, digits = _spread(self.ratios(name)), 3 if self.unit == MS else 0
            figure = f"{self.median(name):,.{digits}f} {self.unit}"
            times = "" if name == "floor" else f"{ratio[0]:6.2f} x the floor ({ratio[1]:.2f} .. {ratio[2]:.2f})"
            lines.append(f"    {name:8}{figure:>16}  {times}")
        lines += [f"    {name}: {value}" for name, value in self.extra.items()]
        return "\n".join(lines)


@dataclass
class Note:
    """Something that was found out and compares with nothing."""

    name: str
    figures: dict[str, Any]

    def data(self) -> dict[str, Any]:
        """All of it, for a program."""
        return {"name": self.name} | self.figures

    def text(self) -> str:
        """Lines for people."""
        return "\n".join([self.name, *(f"    {name}: {value}" for name, value in self.figures.items())])


def alternate(rounds: int, contenders: Mapping[str, Round]) -> Rows:
    """Run rounds of all contenders in turn, each time another one first."""
    names, rows = list(contenders), []
    for number in range(rounds):
        first = number % len(names)
        row = {name: contenders[name]() for name in names[first:] + names[:first]}
        rows.append({name: row[name] for name in names})
    return rows


def in_slices(rounds: int, slices: int, contenders: Mapping[str, Slice]) -> Rows:
    """As `alternate`, for times of single calls: slices of a round take turns, and its figure is the median of a call.

    Slices are short, so that a disk or a neighbour that is slow for a second is slow for all contenders.
    """
    rows = []
    for _ in range(rounds):
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(slices):
            for name, contender in contenders.items():
                times[name] += contender(number)
        rows.append({name: statistics.median(values) for name, values in times.items()})
    return rows


def _spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), values[0], values[-1]
