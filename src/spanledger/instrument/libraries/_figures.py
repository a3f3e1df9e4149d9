"""Figures in requests and answers, which the clients pass on as they are.

Rules: what no model can have read or written is no figure: the ledger could not keep it, and no exporter send it.
"""

from __future__ import annotations

from typing import Any, Final

TOKENS_MAX: Final = 10**12
"""More tokens than any model reads or writes in one call."""


def count(reported: Any, name: str) -> int | None:
    """Read a figure; the client does not check what servers report."""
    value = getattr(reported, name, None)
    return value if _is_figure(value) else None


def figures(values: tuple[Any, ...]) -> tuple[int | None, ...]:
    """Take of some values those that are figures, and None for each of the others."""
    # Of every answer, and nearly all are: a loop costs a fifth of a function for each.
    for value in values:
        if value is not None and (type(value) is not int or not 0 <= value <= TOKENS_MAX):
            return tuple(value if _is_figure(value) else None for value in values)
    return values


def _is_figure(value: Any) -> bool:
    return type(value) is int and 0 <= value <= TOKENS_MAX


def number(value: Any) -> float | None:
    """Read a number of a request; the client has a way of its own to say nothing."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def most(*values: Any) -> int | None:
    """Read the first that limits how many tokens are written; None where none does: to some servers -1 says so."""
    given = (number(value) for value in values)
    return next((int(value) for value in given if value is not None and 0 <= value <= TOKENS_MAX), None)
