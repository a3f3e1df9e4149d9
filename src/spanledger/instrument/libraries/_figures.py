"""Figures in requests and answers."""

from __future__ import annotations

from typing import Any


def count(reported: Any, name: str) -> int | None:
    """Read a figure; the client does not check what servers report."""
    value = getattr(reported, name, None)
    return value if type(value) is int and value >= 0 else None


def number(value: Any) -> float | None:
    """Read a number of a request; the client has a way of its own to say nothing."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
