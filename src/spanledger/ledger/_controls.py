"""The controls of a program's own file: written into the ledger where its role may, compared where it may not.

Rules: once per process and tenant, before the first call of that tenant begins. Where the role may not, the ledger's
controls hold whatever is in the file; where they are less strict, that is said in the log.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import psycopg

from spanledger.core.controls import looser
from spanledger.ledger._functions import Read, Run, asked_of

logger = logging.getLogger("spanledger.ledger")

# So many tenants are remembered as done; beyond it they are done again, which changes nothing.
TENANTS_MAX = 10_000


class FileControls:
    """What a program's file says of every tenant."""

    def __init__(self, controls: Run | None) -> None:
        """Remember what to apply, for the configured tenant and for others when they are first seen; None: nothing."""
        self._controls = controls
        self._done: set[tuple[int, str]] = set()  # process id and tenant

    @property
    def tenant(self) -> str | None:
        """The configured tenant; None where there is nothing to apply."""
        return None if self._controls is None else self._controls.arguments[0]

    def due(self, tenant: str) -> bool:
        """Tell whether this process has not yet applied them for a tenant."""
        return self._controls is not None and (os.getpid(), tenant) not in self._done

    def apply(self, connection: psycopg.Connection, tenant: str | None) -> None:
        """Apply them for a tenant, or compare; it is done then."""
        if self._controls is None or tenant is None or not self.due(tenant):
            return
        _, wanted, by = self._controls.arguments
        try:
            asked_of(connection, Run(self._controls.function, (tenant, wanted, by)))
        except psycopg.errors.InsufficientPrivilege:
            for loose in less_strict(connection, tenant, wanted):
                logger.warning(
                    "tenant %s: %s; an operator has to `spanledger apply` this program's configuration", tenant, loose
                )
        if len(self._done) >= TENANTS_MAX:
            self._done.clear()
        self._done.add((os.getpid(), tenant))


def less_strict(connection: psycopg.Connection, tenant: str, wanted: Mapping[str, Any]) -> list[str]:
    """Say where the ledger is less strict than controls that a program wants."""
    budgets, controls = (
        [row for (row,) in asked_of(connection, Read(view, {"tenant": tenant}))] for view in ("budgets", "controls")
    )
    return looser(wanted, budgets, controls)
