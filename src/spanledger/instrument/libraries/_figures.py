"""Figures in requests and answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def count(reported: Any, name: str) -> int | None:
    """Read a figure; the client does not check what servers report."""
    value = getattr(reported, name, None)
    return value if type(value) is int and value >= 0 else None


def counts_of(places: Iterable[tuple[str, Any, str]]) -> dict[str, int | None]:
    """Read figures, each as `count` does, in one go.

    Args:
        places: What to call a figure, where it is reported, and by which name.
    """
    found: dict[str, int | None] = {}
    for kind, reported, name in places:
        value = getattr(reported, name, None)
        if type(value) is int and value >= 0:
            found[kind] = value
    return found


def number(kwargs: Mapping[str, Any], name: str) -> float | None:
    """Read a number of a request; the client has a way of its own to say nothing."""
    value = kwargs.get(name)
    if value is None:  # as nearly always
        return None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
