"""What an operator wants to know of a ledger before trusting it: how it is reached, and how it stands.

Rules: no call is made and no control applied. Every answer is a plain value; what it means for the operator is said by
`spanledger.doctor`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from spanledger.ledger import _migrate
from spanledger.ledger._database import Database, is_pooled
from spanledger.ledger._functions import translated

AGENT_FUNCTIONS = ("begin", "settle", "fail", "renew", "probed")
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")
_STANDING = """
select count(*) filter (where state = 'unknown') as unknown,
    count(*) filter (where state = 'unknown' and lease_until is not null) as lapsed,
    min(started_at) filter (where state = 'unknown') as unknown_since,
    count(*) filter (where state = 'in_flight') as running
from spanledger_v1.calls where tenant = %s and state in ('unknown', 'in_flight')
"""


@dataclass(frozen=True, slots=True)
class Checkup:
    """What was found.

    Attributes:
        address: Host, port and database; no user, no password.
        server_version: Of Postgres, for example ``"18.4"``.
        role: The database role of this program.
        superuser: It may do anything.
        round_trip_s: Median seconds of an empty statement.
        clock_ahead_s: Seconds the server's clock is ahead of this machine's; only for people to compare times.
        pooled: Another program, such as PgBouncer, is between us and the server.
        risky: Settings with which a crash of the server may forget what it has confirmed, and their values.
        forbidden: Functions of the ledger that a guarded program needs and the role may not use.
        unknown: Calls of unknown outcome, those of them whose lease ran out unnoticed, and the start of the oldest.
        running: Calls that run now.
    """

    address: str
    server_version: str
    role: str
    superuser: bool
    round_trip_s: float
    clock_ahead_s: float
    pooled: bool
    risky: Mapping[str, str]
    forbidden: tuple[str, ...]
    unknown: tuple[int, int, Any]
    running: int


def look(database: Database, tenant: str) -> Checkup:
    """Look at a ledger.

    Raises:
        LedgerUnavailable: It does not answer.
        ConfigError: It holds no schema that this program can work with.
    """
    with database.connect() as connection:
        try:
            if database.embedded:
                _migrate.migrate(connection)  # as the first call of a program does
            _migrate.check_schema(connection)
            return _look(connection, tenant)
        except psycopg.Error as error:
            raise translated(error) from error


def _look(connection: psycopg.Connection, tenant: str) -> Checkup:
    info = connection.info
    role, superuser, server_s = _row(
        connection,
        "select session_user::text, (select rolsuper from pg_roles where rolname = session_user), "
        "extract(epoch from clock_timestamp())::float8",
    )
    clock_ahead_s = server_s - time.time()
    unknown, lapsed, since, running = _row(connection, _STANDING, (tenant,))
    settings: dict[str, str] = dict(
        connection.execute("select name, setting from pg_settings where name = any (%s)", ([*DURABLE],)).fetchall()
    )
    rights: dict[str, bool] = dict(connection.execute(
        "select p.proname::text, has_function_privilege(p.oid, 'execute') from pg_proc p "
        "where p.pronamespace = 'spanledger_v1'::regnamespace").fetchall())  # fmt: skip
    return Checkup(
        address=f"{info.host or 'local socket'}:{info.port}/{info.dbname}",
        server_version=_row(connection, "show server_version")[0].split()[0],
        role=role,
        superuser=superuser,
        round_trip_s=_round_trip_s(connection),
        clock_ahead_s=clock_ahead_s,
        pooled=is_pooled(connection),
        risky={name: value for name, value in settings.items() if value == "off"},
        forbidden=tuple(name for name in AGENT_FUNCTIONS if not rights.get(name)),
        unknown=(unknown, lapsed, since),
        running=running,
    )


def _round_trip_s(connection: psycopg.Connection) -> float:
    times = []
    for _ in range(5):
        begun_s = time.perf_counter()
        connection.execute("select 1").fetchone()
        times.append(time.perf_counter() - begun_s)
    return sorted(times)[2]


def _row(connection: psycopg.Connection, statement: Any, parameters: tuple[Any, ...] = ()) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(statement, parameters).fetchone()
    if row is None:
        raise RuntimeError("the database gave no row where there is always one")
    return row
