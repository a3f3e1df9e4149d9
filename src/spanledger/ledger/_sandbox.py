"""A copy of the ledger's rules in temporary tables, with a clock that is set by hand: what would it have answered?

Rules: the functions that decide are the ledger's own, text for text, but for three things: they live in `pg_temp`,
their clock is `pg_temp.moment()`, and they take no advisory lock, because nobody else is there and the real ones
belong to programs that work. Once the copy is made, the transaction is read only: the server itself sees to it that no
table of the ledger is written. It is never committed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg

from spanledger.ledger import _migrate
from spanledger.ledger._functions import translated

STATEMENT_TIMEOUT_S = 60
LOCK_TIMEOUT_S = 2
IDLE_TIMEOUT_S = 60
# What is asked of it; what these need comes along.
ROOTS = ("apply", "begin", "settle", "fail", "approve", "deny")

_BOUNDS = (
    "set transaction isolation level repeatable read",
    f"set local statement_timeout = '{STATEMENT_TIMEOUT_S}s'",
    f"set local idle_in_transaction_session_timeout = '{IDLE_TIMEOUT_S}s'",
    f"set local lock_timeout = '{LOCK_TIMEOUT_S}s'",
    # Functions name others that are not there yet.
    "set local check_function_bodies = off",
    # Each migration says what it drops where it is there; here nothing is.
    "set local client_min_messages = warning",
)
_OWN = """
create function pg_temp.moment() returns timestamptz language sql volatile as
    $$ select current_setting('spanledger_sandbox.moment')::timestamptz $$;
create function pg_temp.unlocked(bigint) returns boolean language sql immutable as $$ select true $$;
create function pg_temp.require(text, text) returns void language sql immutable as $$ select $$;
create function pg_temp.ask(p_at text, p_function text, p_tenant text, p_items jsonb) returns jsonb
language plpgsql volatile as $$
declare
    v_answer jsonb;
begin
    perform set_config('spanledger_sandbox.moment', p_at, true);
    execute format('select pg_temp.%I($1, $2)', p_function) into v_answer using p_tenant, p_items;
    return v_answer;
end
$$;
"""
# Kind of control → how those that the ledger holds are read, and how they are written into the copy.
_CONTROLS = {
    "budget": (
        """
        select distinct b.tenant, b.name, b.unit, b.base_steps as limit_steps, b.match, b.operations, b.per,
            b.window_kind, b.window_s, b.timezone, b.soft_steps, b.version
        from spanledger_v1.budgets b where b.tenant = $1
        """,
        """
        insert into pg_temp.budget (
            tenant, name, unit, limit_steps, match, match_like, operations, per, window_kind, window_s, timezone,
            soft_steps, version, applied_at, applied_by)
        select r.tenant, r.name, r.unit, r.limit_steps, r.match, pg_temp.like_of(r.match), r.operations, r.per,
            r.window_kind, r.window_s, r.timezone, r.soft_steps, r.version, pg_temp.moment(), ''
        from jsonb_populate_recordset(null::pg_temp.budget, $1::jsonb) r
        """,
    ),
    "control": (
        """
        select c.tenant, c.kind, c.match, c.except_like, c.spec, c.version, c.applied_at, c.applied_by
        from spanledger_v1.controls c where c.tenant = $1 and c.kind <> 'rate'
        """,
        """
        insert into pg_temp.control (
            tenant, kind, match, match_like, except_like, spec, active, version, applied_at, applied_by)
        select r.tenant, r.kind, r.match, pg_temp.like_of(r.match), r.except_like, r.spec,
            pg_temp.is_active(r.kind, r.spec), r.version, r.applied_at, r.applied_by
        from jsonb_populate_recordset(null::pg_temp.control, $1::jsonb) r
        """,
    ),
    "rate": (
        """
        select c.tenant, split_part(c.match, ' ', 1) as from_unit, split_part(c.match, ' ', 2) as to_unit,
            c.spec ->> 'valid_from' as valid_from, c.spec ->> 'rate' as rate, c.applied_at, c.applied_by
        from spanledger_v1.controls c where c.tenant = $1 and c.kind = 'rate'
        """,
        "insert into pg_temp.rate select * from jsonb_populate_recordset(null::pg_temp.rate, $1::jsonb)",
    ),
    "grants": (
        """
        select g.tenant, g.permission, coalesce(g.agent, '') as agent, coalesce(g.actor, '') as actor, g.spec,
            g.expires_at, g.revoked_at, g.version, g.applied_at, g.applied_by
        from spanledger_v1.grants g where g.tenant = $1
        """,
        "insert into pg_temp.grants select * from jsonb_populate_recordset(null::pg_temp.grants, $1::jsonb)",
    ),
}
_NAME = re.compile(r"\bspanledger(?:_v1)?\.(\w+)")


class Sandbox:
    """The copy, for one tenant."""

    def __init__(self, connection: psycopg.Connection[Any], tenant: str) -> None:
        self._asks = psycopg.RawCursor(connection)
        self._tenant = tenant

    def copy(self, held: Mapping[str, Any], at: dt.datetime) -> None:
        """Take over controls that `controls_held` has read; budgets begin empty."""
        self._asks.execute("select set_config('spanledger_sandbox.moment', $1, true)", (at.isoformat(),))
        for kind, rows in held.items():
            self._asks.execute(_CONTROLS[kind][1], (json.dumps(rows),))

    def apply(self, controls: Mapping[str, Any], at: dt.datetime) -> None:
        """Write controls into the copy, as `apply` would into the ledger."""
        self._asks.execute("select set_config('spanledger_sandbox.moment', $1, true)", (at.isoformat(),))
        self._asks.execute("select pg_temp.apply($1, $2::jsonb, '')", (self._tenant, json.dumps(controls)))

    def ask(self, function: str, item: Mapping[str, Any], at: dt.datetime) -> dict[str, Any]:
        """Ask the copy about one item, at that moment."""
        self._asks.execute(
            "select pg_temp.ask($1, $2, $3, $4::jsonb)", (at.isoformat(), function, self._tenant, json.dumps([item]))
        )
        row = self._asks.fetchone()
        answer: dict[str, Any] = row[0][0] if row else {}
        return answer


def controls_held(connection: psycopg.Connection[Any], tenant: str) -> dict[str, Any]:
    """Read the controls that the ledger holds now."""
    reading = psycopg.RawCursor(connection)
    found = {}
    for kind, (select, _) in _CONTROLS.items():
        row = reading.execute(f"select coalesce(jsonb_agg(v), '[]') from ({select}) v", (tenant,)).fetchone()  # noqa: S608
        found[kind] = row[0] if row else []
    return found


@contextlib.contextmanager
def bounded(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Open a transaction that is rolled back, and in which nothing takes or waits for long.

    Raises:
        ConfigError: The role may not do what is done in it, or the database cannot take it.
        LedgerUnavailable: The ledger does not answer, or not in time.
    """
    try:
        with connection.transaction(force_rollback=True):
            for statement in _BOUNDS:
                connection.execute(statement)
            yield
    except psycopg.Error as error:
        raise translated(error) from error


@contextlib.contextmanager
def opened(connection: psycopg.Connection[Any], tenant: str) -> Iterator[Sandbox]:
    """Make the copy, in a transaction that is rolled back in any case.

    Args:
        connection: One of its own, of a role that may use temporary tables.
        tenant: Whose calls are asked about.

    Raises:
        ConfigError: The role may not, or the database cannot take a question.
        LedgerUnavailable: It does not answer, or not in time.
    """
    with bounded(connection):
        for statement in (_OWN, *_scripts()):
            connection.execute(statement)
        yield Sandbox(connection, tenant)


def freeze(connection: psycopg.Connection[Any]) -> None:
    """From here on, the server refuses to write any table but temporary ones."""
    connection.execute("set transaction read only")


def _scripts() -> Iterator[str]:
    for script in _migrate.migrations():
        kept = (one for one in script.text.split(";\n") if not _is_dropped(one))
        yield _moved(";\n".join(kept))
    functions = {
        script.name: script.text for script in _migrate.modules() if "create or replace function" in script.text
    }
    wanted, found = list(ROOTS), dict.fromkeys(ROOTS)
    for name in wanted:
        for named in _NAME.findall(functions[name]):
            if named in functions and named not in found and named != "require":
                found[named] = None
                wanted.append(named)
    # As migrations do it: a function of language sql is looked into when it is made.
    for name in sorted(found, key=lambda name: "language sql" not in functions[name]):
        yield _moved(functions[name])


def _is_dropped(statement: str) -> bool:
    bare = re.sub(r"^\s*(--[^\n]*\n\s*)*", "", statement)
    return bool(re.match(r"(create schema|drop (function|view))\b", bare))


def _moved(text: str) -> str:
    moved = _NAME.sub(r"pg_temp.\1", text).replace("clock_timestamp()", "pg_temp.moment()")
    return re.sub(r"\bpg_(?:try_)?advisory_xact_lock\(", "pg_temp.unlocked(", moved)
