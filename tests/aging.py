"""Make what a ledger holds old: as if nobody had touched it for so long.

Rules: leases and windows to come are left alone, so that what runs still runs.
"""

from __future__ import annotations

from typing import Any

import psycopg

TIMES = {
    "call": "created_at started_at ended_at approval_until pruned_at",
    "history": "at",
    "approval": "requested_at expires_at decided_at consumed_at",
    "trail": "at",
    "session": "started_at",
    "run": "started_at ended_at alive_until",
    "account": "window_start",
    "delegation": "created_at expires_at",
    "eval_run": "started_at ended_at alive_until",
}


def age(sql: psycopg.Connection, days: float = 100, *tables: str) -> None:
    """Move the times of these tables, or of all, into the past."""
    for table in tables or TIMES:
        moved = ", ".join(f"{column} = {column} - make_interval(secs => %(s)s)" for column in TIMES[table].split())
        sql.execute(f"update spanledger.{table} set {moved}", {"s": days * 86400})  # type: ignore[arg-type]


def contents(sql: psycopg.Connection) -> dict[str, list[Any]]:
    """All rows of all tables of the ledger."""
    names = sql.execute(
        "select relname from pg_class where relnamespace = 'spanledger'::regnamespace and relkind = 'r'"
    ).fetchall()
    found = {}
    for (name,) in names:
        rows = sql.execute(f"select to_jsonb(t)::text from spanledger.{name} t order by 1").fetchall()  # type: ignore[arg-type]
        found[name] = [row for (row,) in rows]
    return found
