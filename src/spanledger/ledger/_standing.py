"""How a ledger stands, in figures, for whoever shows them now and then.

Rules: a process that does not use the ledger, not yet or no longer, does not ask it for figures either: nothing is
opened, and no private server started, for their sake.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from spanledger.ledger._database import Database
from spanledger.ledger._functions import Run
from spanledger.ledger._spool import SpoolStatus
from spanledger.ledger._trail import Trail


class Standing:
    """The figures of one tenant.

    Args:
        database: Its ledger.
        tenant: Whose figures.
        trail: Tells it what agents say of themselves.
    """

    def __init__(self, database: Database, tenant: str, trail: Trail) -> None:
        self._database = database
        self._tenant = tenant
        self._trail = trail

    @property
    def in_use(self) -> bool:
        """This process uses the ledger."""
        return self._database.prepared_pid == os.getpid()

    def figures(self) -> Mapping[str, Any]:
        """Ask the ledger.

        Raises:
            LedgerUnavailable: It does not answer; likewise a `psycopg.Error`: this role may not ask.
        """
        figures: Mapping[str, Any] = self._database.reply(Run("gauges", (self._tenant,)))
        return figures

    @property
    def trail_lost(self) -> int:
        """How many entries of the decision trace this process has lost."""
        return self._trail.lost

    def spool(self) -> SpoolStatus | None:
        """Look what waits on disk; None where nothing can."""
        return self._database.spooled()
