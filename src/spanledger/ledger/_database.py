"""Connections: where the ledger is and how to reach it.

Rules: nothing is opened before the first question, and pools start empty and stay small. Blocking callers share
one pool per process; every event loop has connections of its own, closed with the loop. After a fork everything is made
anew (the process id is compared, because some servers fork without telling Python). The first connection of a
process checks the schema, so that a wrong address or an old schema is a clear error and not a timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg

from spanledger.config import Dsn
from spanledger.core.asking import Ask, Keep
from spanledger.errors import ConfigError, LedgerUnavailable, SpanledgerError
from spanledger.ledger import _migrate
from spanledger.ledger._batch import AwaitingBatches, BlockingBatches
from spanledger.ledger._bounded import BoundedConnection
from spanledger.ledger._controls import FileControls
from spanledger.ledger._courier import Courier
from spanledger.ledger._embedded import START_TIMEOUT_S, EmbeddedPostgres, default_state_dir
from spanledger.ledger._functions import (
    Query,
    Run,
    answer,
    bad_dsn,
    dsn_text,
    no_connection,
    question,
    together,
    translated,
)
from spanledger.ledger._heartbeat import Heartbeat
from spanledger.ledger._later import Later
from spanledger.ledger._line import KEEPALIVES
from spanledger.ledger._pools import AwaitingPool, BlockingPool
from spanledger.ledger._sightings import saw
from spanledger.ledger._silence import Silence
from spanledger.ledger._spool import Spool, SpoolStatus, ledger_name
from spanledger.ledger._wakeups import Wakeups
from spanledger.ledger._wire import BACKEND, AwaitingWire

if TYPE_CHECKING:  # it tells by this module
    from spanledger.ledger._trail import Trail

logger = logging.getLogger("spanledger.ledger")

# Fails within seconds where libpq's defaults would hang: a blackholed peer is noticed by tcp_user_timeout only.
CONNECT_TIMEOUT_S_MAX = 5
_DEFAULTS = {"tcp_user_timeout": "10000", "application_name": "spanledger"}


def is_pooled(connection: psycopg.Connection[Any]) -> bool:
    """Tell whether a pooler is between us and the server: it hands out process ids of its own.

    In transaction mode every statement may go to another server process, which knows nothing of what was prepared.
    """
    return connection.execute(BACKEND).fetchone() != (connection.info.backend_pid,)


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
        self._controls = FileControls(controls)
        self.timeout_s = timeout_s
        self.heartbeat = Heartbeat(self._renew)
        self.silence = Silence(self._answers)
        self.wakeups = Wakeups(self._connect_listening, self._peek)
        self.later = Later(self.keep, timeout_s=timeout_s)
        self.spool: Spool | None = None
        self.trail: Trail | None = None
        self._courier = Courier(lambda: self.spool, self._tell)
        # By process id: a thread that held the parent's lock is not in a forked child.
        self._locks: dict[int, threading.Lock] = {}
        self._threads: _Threads | None = None
        self.prepared_pid = 0
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = weakref.WeakKeyDictionary()
        self._latest: _Loop | None = None  # of the loop that asked last; nearly always it asks next

    @property
    def embedded(self) -> bool:
        """The ledger is a private server of this machine."""
        return isinstance(self._dsn, EmbeddedPostgres)

    @property
    def wanted(self) -> bool:
        """Somebody has asked it, or asking starts nothing: a private server runs for guarded calls only."""
        return not self.embedded or self.prepared_pid == os.getpid()

    def conninfo(self) -> str:
        """Return a connection string with our defaults; starts the private server where it is one."""
        text = self._address()
        try:
            given = psycopg.conninfo.conninfo_to_dict(text)
        except psycopg.ProgrammingError as error:
            raise bad_dsn(error) from None
        if not given:
            # libpq would fall back to whatever database is nearest.
            raise ConfigError("the ledger's DSN is empty; see SPANLEDGER_DSN and SPANLEDGER_DSN_FILE")
        self.spool = self._spool_of(given)
        # Whole seconds, and libpq knows none below 2.
        connect = {"connect_timeout": str(min(max(math.ceil(self.timeout_s), 2), CONNECT_TIMEOUT_S_MAX))}
        defaults = {name: value for name, value in (_DEFAULTS | connect).items() if name not in given}
        return psycopg.conninfo.make_conninfo(text, **defaults, client_encoding="UTF8")

    def reply(self, query: Query) -> Any:
        """Ask, and wait in this thread for the answer; what is asked at the same time may go in one statement.

        Raises:
            LedgerUnavailable: No answer came in time; likewise a `psycopg.Error`.
        """
        pool, batches = self._opened()
        if isinstance(query, Ask):
            return batches.ask(query)
        with pool.lent() as wire:
            return answer(query, wire.ask(question(query), self.timeout_s).rows())

    async def reply_awaiting(self, query: Query) -> Any:
        """As `reply`, in the running loop."""
        loop = self._loop()
        if self.prepared_pid != loop.pool.pid:
            await asyncio.to_thread(self.prepare)
        if isinstance(query, Ask):
            return await loop.batches.ask(query)
        async with loop.pool.lent() as wire:
            return answer(query, (await wire.ask(question(query), self.timeout_s)).rows())

    def keep(self, step: Keep) -> bool:
        """Keep an outcome on disk that the ledger did not take, until it does.

        Returns:
            True; False where it is lost, which was logged.
        """
        if self.spool is None:
            logger.error("an outcome is lost: where the ledger is has never been known, nor where to keep it")
            return False
        if not self.spool.keep(step.ask, step.begin):
            return False
        self._courier.start()
        return True

    def deliver(self, begin: Ask) -> None:
        """Before a call begins: tell the ledger what is queued or waits on disk of it; the rest in the background.

        Raises:
            LedgerUnavailable: It does not answer; likewise a `psycopg.OperationalError`.
        """
        self.later.tell_first(begin)
        self.prepare()
        if self._controls.due(begin.tenant):
            with self._alone(), self.connect() as connection:
                self._controls.apply(connection, begin.tenant)
        self._saw(begin)
        if self.spool is not None and self.spool.holds_some():
            self._courier.start()
            self.spool.deliver(self._tell, self.spool.waiting(begin), wait_s=self.timeout_s)

    async def deliver_awaiting(self, begin: Ask) -> None:
        """As `deliver`; the loop is blocked by a look at a folder and no more."""
        prepared = self.prepared_pid == os.getpid() and not self._controls.due(begin.tenant)
        if not prepared or self.later.works or (self.spool is not None and self.spool.holds_some()):
            await asyncio.to_thread(self.deliver, begin)
        else:
            self._saw(begin)

    def _saw(self, ask: Ask) -> None:
        if self.trail is not None and self.spool is not None:
            saw(ask, self.spool.directory.name, self.trail)

    def spooled(self) -> SpoolStatus | None:
        """Say what waits on disk for this ledger; None where nothing can."""
        if self.spool is None:
            self.conninfo()
        return None if self.spool is None else self.spool.status()

    def forget_connections(self) -> None:
        """Replace pooled connections that are broken."""
        if self._threads is not None and self._threads.pool.pid == os.getpid():
            self._threads.pool.forget()

    async def forget_loop_connections(self) -> None:
        """Replace this loop's connections that are broken."""
        await self._loop().pool.forget()

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
            why = f"no connection to the ledger: {str(error).strip()}; is SPANLEDGER_DSN right and the server up?"
            raise LedgerUnavailable(why) from error

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
        if self.trail is not None:
            self.trail.close()
        self.later.close()
        self.silence.end()
        self.prepared_pid = 0
        self.heartbeat.stop()
        self.wakeups.stop()
        self._courier.stop()
        # Nobody waits for a connection that is still being opened in the background.
        with contextlib.suppress(LedgerUnavailable), self._alone():
            threads, self._threads = self._threads, None
            if threads is not None and threads.pool.pid == os.getpid():
                threads.pool.close()
        if isinstance(self._dsn, EmbeddedPostgres):
            self._dsn.release()

    async def close_loop(self) -> None:
        """Close the pool of the running loop; who asks there again opens another."""
        pool, self._latest = self._loop().pool, None
        self._loops.pop(asyncio.get_running_loop(), None)
        await pool.close()

    def _loop(self) -> _Loop:
        loop, found = asyncio.get_running_loop(), self._latest
        if found is None or found.loop() is not loop:
            found = self._loops.get(loop)
        if found is None or found.pool.pid != os.getpid():
            pool = AwaitingPool(self._connect_awaiting, timeout_s=self.timeout_s)
            # By a weak reference: what the loop is the key to must not keep it alive.
            found = self._loops[loop] = _Loop(pool, AwaitingBatches(pool, timeout_s=self.timeout_s), weakref.ref(loop))
        self._latest = found
        return found

    def _connect_listening(self) -> psycopg.Connection:
        given = psycopg.conninfo.conninfo_to_dict(self.conninfo())
        conninfo = psycopg.conninfo.make_conninfo(**{**KEEPALIVES, **{k: str(v) for k, v in given.items()}})
        connection = BoundedConnection.connect(conninfo, autocommit=True)
        connection.answer_timeout_s = self.timeout_s
        return connection

    def _answers(self) -> None:
        # Not from the pool: its connections may be the broken ones.
        connection = self._connect_listening()
        try:
            connection.execute("select 1")
        finally:
            connection.close()
        self.forget_connections()

    def _peek(self, tenant: str, keys: list[str]) -> list[dict[str, Any]]:
        return self.reply(Run("peek", (tenant, [{"key": key} for key in keys])))  # type: ignore[no-any-return]

    async def _connect_awaiting(self) -> AwaitingWire:
        return await AwaitingWire.connected(await asyncio.to_thread(self.conninfo))

    def _address(self) -> str:
        if isinstance(self._dsn, EmbeddedPostgres):
            return self._dsn.dsn()
        try:
            return dsn_text((self._dsn() if callable(self._dsn) else self._dsn) or "")
        except SpanledgerError:
            raise
        except Exception as error:
            raise LedgerUnavailable(f"the ledger's DSN cannot be had: {type(error).__name__}: {error}") from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one thread at a time through; the others wait, but not for ever."""
        lock = self._locks.setdefault(os.getpid(), threading.Lock())
        # Whoever comes while another thread starts the private server waits as long as that may take.
        if not lock.acquire(timeout=self.timeout_s if self.wanted else START_TIMEOUT_S):
            raise no_connection()
        try:
            yield
        finally:
            lock.release()

    def _opened(self) -> _Threads:
        found = self._threads
        if found is not None and found.pool.pid == os.getpid():
            return found
        self.prepare()
        with self._alone():
            if self._threads is None or self._threads.pool.pid != os.getpid():
                pool = BlockingPool(self.conninfo, is_pooled, timeout_s=self.timeout_s)
                self._threads = _Threads(pool, BlockingBatches(pool, timeout_s=self.timeout_s))
            return self._threads

    def prepare(self) -> None:
        """Once per process: make sure that the ledger is there and its schema fits; the embedded one is migrated."""
        if self.prepared_pid == os.getpid():
            return
        with self._alone():
            if self.prepared_pid != os.getpid():
                self._prepare()
                self.prepared_pid = os.getpid()

    def _prepare(self) -> None:
        try:
            with self.connect() as connection:
                if self.embedded:
                    _migrate.migrate(connection)
                else:
                    _migrate.check_schema(connection)
                self._controls.apply(connection, self._controls.tenant)
        except psycopg.Error as error:
            raise translated(error) from error
        if self.spool is not None and self.spool.waiting():
            self._courier.start()

    def _spool_of(self, given: Mapping[str, object]) -> Spool | None:
        if isinstance(self._dsn, EmbeddedPostgres):
            return Spool(self._dsn.state_dir, "embedded")
        name = ledger_name(given)
        if self.spool is not None and self.spool.directory.name == name:
            return self.spool
        try:
            return Spool(default_state_dir(), name)
        except RuntimeError as error:  # a user without a home
            logger.warning("outcomes cannot be kept on disk: %s; set SPANLEDGER_STATE_DIR", error)
            return None

    def _tell(self, ask: Ask) -> Any:
        # Alone, so that what the ledger says of this one is said of nothing else.
        try:
            with self._opened().pool.lent() as wire:
                asked = together(ask.function, ask.tenant, [json.dumps(ask.item)])
                return wire.ask(asked, self.timeout_s).rows()[0][0][0]
        except psycopg.OperationalError:
            self.forget_connections()
            raise

    def _renew(self, tenant: str, items: list[dict[str, object]]) -> None:
        self.reply(Run("renew", (tenant, {"items": items})))


class _Threads(NamedTuple):
    """What the threads of one process have together."""

    pool: BlockingPool
    batches: BlockingBatches


class _Loop(NamedTuple):
    """What one event loop has."""

    pool: AwaitingPool
    batches: AwaitingBatches
    loop: weakref.ref[asyncio.AbstractEventLoop]
