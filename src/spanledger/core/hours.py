"""Hours of the day in which something holds, as people write them: ``"09:00-17:00"``.

Rules: pure, and in UTC, where no hour is missing or there twice. The first minute belongs to them and the last does
not. They may go over midnight: ``"22:00-06:00"``. The ledger reads the same text and decides in the same way.
"""

from __future__ import annotations

import re
from typing import Final

from spanledger.errors import ConfigError

DAY_S: Final = 86_400

_HOURS: Final = re.compile(r"([01]\d|2[0-3]):[0-5]\d-(?:([01]\d|2[0-3]):[0-5]\d|24:00)", re.ASCII)


def checked(hours: object, where: str) -> str:
    """Return hours that can be read.

    Raises:
        ConfigError: They cannot, or never begin or end.
    """
    if not isinstance(hours, str) or not _HOURS.fullmatch(hours) or len(set(_edges_s(hours))) == 1:
        raise ConfigError(f"{where}: hours are a text such as '09:00-17:00' or '22:00-06:00', in UTC, not {hours!r}")
    return hours


def within(hours: str, at_s: float) -> bool:
    """Tell whether a moment is within hours.

    Args:
        hours: What `checked` returned.
        at_s: Seconds since midnight, UTC; after a day, of the next one.
    """
    begins_s, ends_s = _edges_s(hours)
    at_s %= DAY_S
    return begins_s <= at_s < ends_s if begins_s < ends_s else at_s >= begins_s or at_s < ends_s


def _edges_s(hours: str) -> tuple[int, int]:
    begins_s, ends_s = (60 * (60 * int(edge[:2]) + int(edge[3:])) for edge in hours.split("-"))
    return begins_s, ends_s
