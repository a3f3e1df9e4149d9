"""What scores, weights and names may be, so that whatever is kept of evaluations can be counted and found.

Rules: pure. The same bounds are in the ledger's functions, which are asked from other languages as well.
"""

from __future__ import annotations

from typing import Final

from spanledger.core.outcomes import storable
from spanledger.errors import ConfigError

# Of scores and weights, so that sums and squares of any number of them stay finite, also in Postgres.
FIGURE_MAX: Final = 1e15
# What a case and who judges it are called, a run and its suite: together they fit an index of Postgres.
CASE_ID_BYTES_MAX: Final = 1000
NAME_BYTES_MAX: Final = 500


def check_passes_at(passes_at: object) -> None:
    """Check what is said to be the least score that passes.

    Raises:
        ConfigError: It is no score.
    """
    if not is_figure(passes_at):
        raise ConfigError(
            f"passes_at is a finite number of at most {FIGURE_MAX:g} in size, not {said_of(passes_at):.80}"
        )


def check_run_id(run_id: object, what: str) -> None:
    """Check what a run of evaluations is called.

    Args:
        run_id: What was given.
        what: Of what, for the error.

    Raises:
        ConfigError: It is no text, empty, too long, or holds what Postgres cannot.
    """
    if not isinstance(run_id, str) or not run_id.strip() or run_id != storable(run_id):
        raise ConfigError(f"run_id of {what} is a text that is not empty, not {said_of(run_id):.80}")
    if not fits(run_id, NAME_BYTES_MAX):
        raise ConfigError(f"run_id of {what} has at most {NAME_BYTES_MAX} bytes, not as {run_id!r:.80}…")


def is_figure(value: object) -> bool:
    """Tell whether a value can be a score."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -FIGURE_MAX <= value <= FIGURE_MAX


def is_weight(value: object) -> bool:
    """Tell whether a value can be a weight."""
    return is_figure(value) and value >= 1 / FIGURE_MAX  # type: ignore[operator]


def fits(text: str, bytes_max: int) -> bool:
    """Tell whether a text has at most so many bytes."""
    return len(text.encode("utf-8", "replace")) <= bytes_max


def bounded(figure: float) -> float:
    """Return what counts of a figure: some may have been kept before there was a bound."""
    return max(-FIGURE_MAX, min(FIGURE_MAX, figure))


def said_of(value: object) -> str:
    """Return the `repr` of a value, or its type's name where it has none."""
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - of somebody's object, or of an integer of thousands of digits
        return f"<{type(value).__name__}>"
