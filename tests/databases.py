"""Databases for tests. One that a test leaves as it was, but for its rows, is emptied and lent to the next test.

Rules: to make and drop one costs Postgres far more than most tests do with it; to delete a few rows costs nothing.
What is not just rows is not put back: where the catalog or what migrations noted has changed, the database is dropped.
A database has another name for every test, so that what is left of one test does not reach that of another. Postgres
looks ten times a second whether sessions are gone; so nothing is asked of it before they are.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator

import psycopg

import spanledger

# Whose rows belong to the schema.
KEPT = ("migration", "module")
# The size and statistics of a relation change with its rows.
STATE = """
select string_agg(part, ';') from (
    select string_agg(concat_ws(' ', xmin, ctid), ',') from spanledger.migration
    union all select string_agg(concat_ws(' ', xmin, ctid), ',') from spanledger.module
    union all select string_agg(concat_ws(' ', oid, relname, relowner, relacl, relnatts, reloptions, relrowsecurity,
        relforcerowsecurity), ',' order by oid) from pg_class where oid >= 16384
    union all select string_agg(concat_ws(' ', xmin, ctid), ',') from pg_attribute where attrelid >= 16384
    union all select string_agg(concat_ws(' ', xmin, ctid), ',') from pg_constraint
    union all select string_agg(concat_ws(' ', xmin, ctid), ',') from pg_trigger
    union all select string_agg(concat_ws(' ', xmin, ctid), ',') from pg_policy
    union all select string_agg(concat_ws(' ', xmin, ctid), ',') from pg_rewrite where oid >= 16384
    union all select string_agg(concat_ws(' ', xmin, ctid), ',') from pg_namespace
    union all select string_agg(concat_ws(' ', xmin, ctid), ',') from pg_default_acl
    union all select string_agg(concat_ws(' ', xmin, ctid), ',') from pg_extension
    union all select string_agg(concat_ws(' ', xmin, ctid), ',') from pg_proc where oid >= 16384
    union all select string_agg(setconfig::text, ',') from pg_db_role_setting join pg_database d on setdatabase = d.oid
        where datname = current_database()
    union all select concat_ws(' ', datdba, datacl) from pg_database where datname = current_database()
) as parts (part)"""
TABLES = """
select format('delete from spanledger.%%I;', relname) from pg_class
where relnamespace = 'spanledger'::regnamespace and relkind = 'r' and relname <> all(%s)
union all
select format('select setval(%%L, 1, false);', oid::regclass) from pg_class
where relnamespace = 'spanledger'::regnamespace and relkind = 'S'"""
SESSIONS_END_WITHIN_S = 10
LOOK_EVERY_S = 0.002


@contextlib.contextmanager
def made(server: str, template: str) -> Iterator[str]:
    """DSN of a database that is made from a template and dropped afterwards."""
    name = _name()
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name} template {template}")
        try:
            yield psycopg.conninfo.make_conninfo(server, dbname=name)
        finally:
            _close_ours()
            _drop(connection, name)


class Ledgers:
    """Databases with an empty ledger, lent to one test after the other."""

    def __init__(self, server: str, template: str) -> None:
        self._server = server
        self._template = template
        self._free: list[str] = []
        self._state: str | None = None
        self._empty = ""

    @contextlib.contextmanager
    def one(self) -> Iterator[str]:
        """DSN of one of them."""
        with psycopg.connect(self._server, autocommit=True) as connection:
            name = self._free.pop() if self._free else self._make(connection)
            try:
                yield self._dsn(name)
            finally:
                _close_ours()
                self._take_back(connection, name)

    def drop(self) -> None:
        """Leave none."""
        with psycopg.connect(self._server, autocommit=True) as connection:
            while self._free:
                _drop(connection, self._free.pop())

    def _dsn(self, name: str) -> str:
        return psycopg.conninfo.make_conninfo(self._server, dbname=name)

    def _make(self, connection: psycopg.Connection) -> str:
        name = _name()
        connection.execute(f"create database {name} template {self._template}")
        if self._state is None:
            with psycopg.connect(self._dsn(name), autocommit=True) as inside:
                self._state = self._state_of(inside)
                statements = [statement for (statement,) in inside.execute(TABLES, [list(KEPT)])]
                # Neither the order of the tables matters nor what they forbid.
                self._empty = "set session_replication_role = replica;" + "".join(statements)
        return name

    def _take_back(self, connection: psycopg.Connection, name: str) -> None:
        try:
            _end_sessions(connection, name)
            renamed = _name()
            connection.execute(f"alter database {name} rename to {renamed}")
        except (psycopg.errors.ObjectInUse, psycopg.errors.InvalidCatalogName):
            _drop(connection, name)
            return
        with psycopg.connect(self._dsn(renamed), autocommit=True) as inside:
            as_it_was = self._state_of(inside) == self._state
            if as_it_was:
                inside.execute(self._empty)
        if as_it_was:
            self._free.append(renamed)
        else:
            _drop(connection, renamed)

    @staticmethod
    def _state_of(inside: psycopg.Connection) -> str | None:
        try:
            (state,) = inside.execute(STATE).fetchone() or (None,)
        except psycopg.Error:  # there is no such table any more
            return "changed"
        return state


def _close_ours() -> None:
    # While it is there: what is closed tells its ledger what it has left to tell, and waits for that.
    spanledger.uninstrument()


def _drop(connection: psycopg.Connection, name: str) -> None:
    _end_sessions(connection, name)
    connection.execute(f"drop database if exists {name} with (force)")


def _end_sessions(connection: psycopg.Connection, name: str) -> None:
    connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
    until = time.monotonic() + SESSIONS_END_WITHIN_S
    while connection.execute("select from pg_stat_activity where datname = %s limit 1", [name]).fetchone() is not None:
        if time.monotonic() > until:
            return
        time.sleep(LOOK_EVERY_S)


def _name() -> str:
    return f"test_{uuid.uuid4().hex}"
