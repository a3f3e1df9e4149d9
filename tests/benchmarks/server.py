"""The server of a benchmark: the one given, or a private one that is gone afterwards.

Rules: a private server keeps fsync on and every other setting of the embedded ledger, unless a caller adds some. Only
the public interface of the ledger prepares it, so that the same benchmark runs before and after a change. In a given
server the calls, the budget and the floor's table stay behind: give one that is nobody's.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg

from spanledger import Budget, Calls, Config, Ledger
from spanledger.ledger._embedded import EmbeddedPostgres

HOT = "hot"
# A row of the ledger, which holds for every program that uses it: calls without a budget have another tool's name.
HOT_BUDGET = Budget(HOT, Calls(10**12), match=HOT)


@contextlib.contextmanager
def a_server(given: str | None = None, settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """Return the DSN of a server for as long as it is needed.

    Args:
        given: A DSN; nothing is started.
        settings: Further settings of a private server.
    """
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        server = EmbeddedPostgres(Path(folder), settings=settings, linger_s=0.0)
        try:
            yield server.dsn()
        finally:
            server.release()


def migrated(dsn: str, *statements: str) -> None:
    """Make the ledger there and run further statements."""
    with Ledger(config=Config(dsn=dsn)) as ledger:
        ledger.migrate()
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def hot_config(dsn: str) -> Config:
    """A configuration whose tool `hot` is covered by one budget that is never used up."""
    return Config(dsn=dsn, budgets=(HOT_BUDGET,))
