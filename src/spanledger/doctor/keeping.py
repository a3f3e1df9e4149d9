"""How far back the ledger goes, how large it is, and what to do where nobody has said how long things are kept.

Rules: pure; what was read goes in, a finding comes out.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from spanledger.config import Config
from spanledger.doctor.finding import OK, WARN, Finding

LARGE_BYTES: Final = 1_000_000_000
OLD: Final = dt.timedelta(days=180)
# Whoever prunes daily or weekly is never that late.
LATE: Final = dt.timedelta(days=8)
_TABLES_NAMED: Final = 3
_GB: Final = 1e9


def of_retention(config: Config, retained: Mapping[str, Any] | None) -> Finding:
    """Say what the ledger keeps.

    Args:
        config: How long it shall.
        retained: What the ledger's function of that name says; None where this role may not ask.
    """
    if retained is None:
        return Finding("retention", OK, "this role may not ask how far back the ledger goes")
    now = dt.datetime.now(dt.UTC)
    since = {part: dt.datetime.fromisoformat(retained[part]) for part in ("calls", "trail") if retained.get(part)}
    tables: dict[str, int] = retained["tables"]
    total = sum(tables.values())
    largest = sorted(tables, key=lambda name: -tables[name])[:_TABLES_NAMED]
    says = f"{_size(total)} ({', '.join(f'{name} {_size(tables[name])}' for name in largest)})"
    says += "".join(f", {part} since {at:%Y-%m-%d}" for part, at in since.items())
    ages_s = config.retention.ages_s
    late = [
        part for part, at in since.items() if part in ages_s and now - at > dt.timedelta(seconds=ages_s[part]) + LATE
    ]
    if late:
        return Finding(
            "retention", WARN, f"{says}; {' and '.join(late)} should have gone", "run `spanledger prune` daily"
        )
    if not ages_s and (total > LARGE_BYTES or any(now - at > OLD for at in since.values())):
        return Finding(
            "retention",
            WARN,
            f"{says}; nothing says how long it is kept",
            'write [retention] calls = "90d", trail = "30d" into spanledger.toml and run `spanledger prune` daily',
        )
    return Finding("retention", OK, says)


def _size(count: int) -> str:
    return f"{count / _GB:.1f} GB" if count >= _GB else f"{count / _GB * 1000:.1f} MB"
