"""The controls of a program's own file: written into the ledger where its role may, compared where it may not."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import psycopg

from spanledger.core.controls import looser
from spanledger.ledger._functions import Read, Run, statement

logger = logging.getLogger("spanledger.ledger")


def apply_or_compare(connection: psycopg.Connection, tenant: str, controls: Run) -> None:
    """Write controls into the ledger of a tenant; where the role may not, say where the ledger is less strict."""
    _, wanted, by = controls.arguments
    try:
        connection.execute(*statement(Run(controls.function, (tenant, wanted, by))))
    except psycopg.errors.InsufficientPrivilege:
        # The ledger's controls hold whatever is in this program's file.
        for loose in less_strict(connection, tenant, wanted):
            logger.warning(
                "tenant %s: %s; an operator has to `spanledger apply` this program's configuration", tenant, loose
            )


def less_strict(connection: psycopg.Connection, tenant: str, wanted: Mapping[str, Any]) -> list[str]:
    """Say where the ledger is less strict than controls that a program wants."""
    budgets, controls = (
        [row for (row,) in connection.execute(*statement(Read(view, {"tenant": tenant}))).fetchall()]
        for view in ("budgets", "controls")
    )
    return looser(wanted, budgets, controls)
