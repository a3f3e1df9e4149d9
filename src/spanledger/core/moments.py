"""Moments as people write them: a date counts from its first moment, and what has no time zone is UTC.

Rules: pure; what cannot be read is an error that shows how to write it.
"""

from __future__ import annotations

import datetime as dt

from spanledger.errors import ConfigError


def moment(value: object, where: str) -> dt.datetime:
    """Read a moment.

    Args:
        value: A date, a time, or a text in ISO 8601.
        where: What it is, for the error.

    Raises:
        ConfigError: It is none.
    """
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            raise ConfigError(
                f"{where}: {value!r} is no date or time; write '2026-12-31' or '2026-12-31T18:00:00+01:00'"
            ) from None
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day, tzinfo=dt.UTC)
    if not isinstance(value, dt.datetime):
        raise ConfigError(f"{where} is a date or a time, not {value!r}")
    return value if value.tzinfo else value.replace(tzinfo=dt.UTC)
