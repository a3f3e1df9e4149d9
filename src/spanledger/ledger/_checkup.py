"""What an operator wants to know of a ledger before trusting it: how it is reached, and how it stands.

Rules: no call is made and no control applied; what a role may do is asked with empty lists, which do nothing. Every
answer is a plain value; what it means for the operator is said by `spanledger.doctor`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from spanledger.config import Config
from spanledger.ledger import _migrate
from spanledger.ledger._controls import less_strict
from spanledger.ledger._database import Database, is_pooled
from spanledger.ledger._functions import translated

# One function of each kind of role that takes an empty list for an answer.
KINDS = {"agent": "begin", "operator": "resolve", "approver": "approve"}
LISTEN_MAX_S = 2.0
AGENT_FUNCTIONS = ("begin", "settle", "fail", "renew", "probed", "gauges")
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")
_STANDING = """
select count(*) filter (where state = 'unknown') as unknown,
    count(*) filter (where state = 'unknown' and lease_until is not null) as lapsed,
    min(started_at) filter (where state = 'unknown') as unknown_since,
    count(*) filter (where state = 'in_flight') as running,
    extract(epoch from min(lease_until) filter (where state = 'in_flight') - clock_timestamp())::float8 as lease_left_s,
    extract(epoch from clock_timestamp() - min(started_at) filter (where state = 'in_flight'))::float8 as running_s
from spanledger_v1.calls where tenant = %s and state in ('unknown', 'in_flight')
"""
_PENDING = """
select count(*), extract(epoch from clock_timestamp() - min(requested_at))::float8
from spanledger_v1.approvals where tenant = %s and state = 'pending'
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
        running: Calls that run now, seconds until the first of their leases is over, seconds since the oldest began.
        pending: Requests that wait for a person, and seconds since the oldest was made.
        kinds: As what the role may act for the tenant: agent, operator, approver.
        listens: A program is told of changes; None where a pooler is in between, through which that is not tried.
        timezone: Of this program's connections to the server; the ledger does not depend on it.
        looser: Where the ledger is less strict than the configuration.
        retained: Since when there are calls and a trail, and the bytes of each table; None where the role may not ask.
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
    running: tuple[int, float | None, float | None]
    pending: tuple[int, float | None]
    kinds: tuple[str, ...]
    listens: bool | None
    timezone: str
    looser: tuple[str, ...]
    retained: Mapping[str, Any] | None = None


def look(database: Database, config: Config) -> Checkup:
    """Look at a ledger, for the tenant of a configuration.

    Raises:
        LedgerUnavailable: It does not answer.
        ConfigError: It holds no schema that this program can work with.
    """
    with database.connect() as connection:
        try:
            if database.embedded:
                _migrate.migrate(connection)  # as the first call of a program does
            _migrate.check_schema(connection)
            return _look(connection, config.tenant, less_strict(connection, config.tenant, config.controls()))
        except psycopg.Error as error:
            raise translated(error) from error


def _look(connection: psycopg.Connection, tenant: str, loose: list[str]) -> Checkup:
    info = connection.info
    role, superuser, server_s = _row(
        connection,
        "select session_user::text, (select rolsuper from pg_roles where rolname = session_user), "
        "extract(epoch from clock_timestamp())::float8",
    )
    clock_ahead_s = server_s - time.time()
    unknown, lapsed, since, *running = _row(connection, _STANDING, (tenant,))
    pooled = is_pooled(connection)
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
        pooled=pooled,
        risky={name: value for name, value in settings.items() if value == "off"},
        forbidden=tuple(name for name in AGENT_FUNCTIONS if not rights.get(name)),
        unknown=(unknown, lapsed, since),
        running=(running[0], running[1], running[2]),
        pending=_pending(connection, tenant),
        kinds=tuple(kind for kind, function in KINDS.items() if _may(connection, function, tenant)),
        listens=None if pooled else _listens(connection),
        timezone=_row(connection, "show timezone")[0],
        looser=tuple(loose),
        retained=_retained(connection, tenant),
    )


def _retained(connection: psycopg.Connection, tenant: str) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = _row(connection, "select spanledger_v1.retained(%s)", (tenant,))[0]
    except psycopg.errors.InsufficientPrivilege:
        return None
    return found


def _pending(connection: psycopg.Connection, tenant: str) -> tuple[int, float | None]:
    count, oldest_s = _row(connection, _PENDING, (tenant,))
    return count, oldest_s


def _may(connection: psycopg.Connection, function: str, tenant: str) -> bool:
    try:
        connection.execute(f"select spanledger_v1.{function}(%s, '[]')", (tenant,))
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


def _listens(connection: psycopg.Connection) -> bool:
    channel = f"spanledger_{uuid.uuid4().hex}"
    try:
        connection.execute(f"listen {channel}")
        connection.execute("select pg_notify(%s, '')", (channel,))
        heard = any(True for _ in connection.notifies(timeout=LISTEN_MAX_S, stop_after=1))
        connection.execute(f"unlisten {channel}")
    except (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.ReadOnlySqlTransaction):
        return False
    return heard


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
