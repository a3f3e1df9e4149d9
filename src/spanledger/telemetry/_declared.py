"""The form in which an attribute, an event or a metric is declared, and all that are.

Rules: one declaration says everything: the page of conventions is generated from it, instruments are made from it, and
tests hold what is emitted against it. What code uses is the name, a plain string. A name is declared once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeVar

T = TypeVar("T")
Stability = Literal["development", "stable"]
Type = Literal["string", "string[]", "int", "double", "boolean", "any"]
Kind = Literal["counter", "histogram", "gauge", "updowncounter"]


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of spans, events or metrics.

    Attributes:
        name: As it is sent.
        type: Of its value.
        when: Where and when it is emitted.
        example: A value.
        meaning: What the value says.
        stability: Whether name and meaning may still change.
    """

    name: str
    type: Type
    when: str
    example: str
    meaning: str
    stability: Stability


@dataclass(frozen=True, slots=True)
class Event:
    """An event on a span, or a log record that is one.

    Attributes:
        name: As it is sent.
        when: Where and when it is emitted.
        attributes: What it may carry.
        meaning: What it says.
        stability: Whether name and meaning may still change.
    """

    name: str
    when: str
    attributes: tuple[str, ...]
    meaning: str
    stability: Stability


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    Attributes:
        name: As it is sent.
        kind: Of its instrument; a gauge is read when it is collected.
        unit: In UCUM.
        attributes: Its labels; each has few values.
        meaning: What it counts, and when.
        stability: Whether name and meaning may still change.
        buckets: Upper bounds of a histogram.
    """

    name: str
    kind: Kind
    unit: str
    attributes: tuple[str, ...]
    meaning: str
    stability: Stability
    buckets: tuple[float, ...]


ATTRIBUTES: Final[dict[str, Attribute]] = {}
EVENTS: Final[dict[str, Event]] = {}
METRICS: Final[dict[str, Metric]] = {}


def attribute(
    name: str, of: Type, when: str, example: str, meaning: str, *, stability: Stability = "development"
) -> str:
    """Declare an attribute and return its name.

    Args:
        name: As it is sent.
        of: The type of its value.
        when: Where and when it is emitted, as the end of "It is on …".
        example: A value.
        meaning: What the value says.
        stability: Whether name and meaning may still change.
    """
    return _declare(ATTRIBUTES, name, Attribute(name, of, when, example, meaning, stability))


def event(
    name: str, when: str, attributes: tuple[str, ...], meaning: str, *, stability: Stability = "development"
) -> str:
    """Declare an event and return its name.

    Args:
        name: As it is sent.
        when: Where and when it is emitted.
        attributes: What it may carry, declared before.
        meaning: What it says.
        stability: Whether name and meaning may still change.
    """
    _known(name, attributes)
    return _declare(EVENTS, name, Event(name, when, attributes, meaning, stability))


def metric(
    name: str, kind: Kind, unit: str, attributes: tuple[str, ...], meaning: str, *, buckets: tuple[float, ...] = ()
) -> str:
    """Declare a metric and return its name.

    Args:
        name: As it is sent.
        kind: Of its instrument.
        unit: In UCUM, for example ``s`` or ``{call}``.
        attributes: Its labels, declared before.
        meaning: What it counts, and when.
        buckets: Upper bounds, where it is a histogram.
    """
    _known(name, attributes)
    return _declare(METRICS, name, Metric(name, kind, unit, attributes, meaning, "development", buckets))


def _declare(all_of_them: dict[str, T], name: str, declared: T) -> str:
    if name in all_of_them:
        raise ValueError(f"{name} is declared twice")
    all_of_them[name] = declared
    return name


def _known(name: str, attributes: tuple[str, ...]) -> None:
    unknown = [attribute for attribute in attributes if attribute not in ATTRIBUTES]
    if unknown:
        raise ValueError(f"{name} carries {unknown[0]}, which is declared nowhere")
