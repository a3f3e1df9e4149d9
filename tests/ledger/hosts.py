"""Servers that a test starts, kills, freezes and promotes; alone, or a primary with its standby.

Rules: they listen on loopback, because programs name several hosts that way. A standby is a cold copy of a primary that
has never been written to but by us. A crash here is a process's, so that nothing is synced. A server that is killed is
killed with all its children at once, as with a machine: none of them finishes what it was doing. They are started from
a test's main thread, and end with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest
from proxies import Proxy

from spanledger.ledger import _supervisor
from spanledger.ledger._binaries import find_binaries

# Looked for once, while the tests are collected: tests themselves do not see the settings of whoever runs them.
BIN_DIR = find_binaries()


def _chosen() -> _supervisor.Account | str:
    """Who runs the servers, or why nobody can."""
    try:
        return _supervisor._choose_account(BIN_DIR / "postgres") if BIN_DIR else "needs the binaries of Postgres"
    except _supervisor.Unusable as reason:
        return str(reason)


# While nothing else goes on in this process: what root may do, it may not always do beside threads.
ACCOUNT = _chosen()
# What we have opened or may open, the servers may too.
AS_US = isinstance(ACCOUNT, _supervisor.Account) and ACCOUNT.uid == os.geteuid()
NAME = "spanledger"
READY_TIMEOUT_S = 60.0
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "4MB",
    "fsync": "off",
    "full_page_writes": "off",
    "wal_keep_size": "64MB",
}
# Becomes whom Postgres runs as, then Postgres. In a process of its own, because tests start servers while threads run.
LAUNCHES = """
import ctypes, os, runpy, sys
supervisor = runpy.run_path(sys.argv[1])
if os.geteuid() == 0:
    # The one that the data directory was given to: chosen anew, it might be another on a busy machine.
    next(account for account in supervisor["_accounts_of_root"]() if account.uid == int(sys.argv[2])).enter()
os.setpgid(0, 0)  # Ctrl-C is the test's
ctypes.CDLL(None).prctl(1, 3)  # SIGQUIT when the test's main thread ends
os.execv(sys.argv[3], sys.argv[3:])
"""
LAUNCHER = (sys.executable, "-I", "-S", "-c", LAUNCHES, _supervisor.__file__)
SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """A Postgres of a test's own.

    Args:
        data: Its data directory; made at the first start unless it is there.
        settings: More settings, or other ones.
    """

    def __init__(self, data: Path, settings: Mapping[str, str] | None = None) -> None:
        if BIN_DIR is None:
            pytest.skip("needs the binaries of Postgres")
        self.data = data
        self.settings = SETTINGS | dict(settings or {})
        self.port = free_port()
        self.log = data.with_suffix(".log")
        self.account = _account()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        return f"host=127.0.0.1 port={self.port} user={NAME} dbname={NAME} sslmode=disable gssencmode=disable"

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it, with more in its environment, and wait until it answers."""
        if not self.data.exists():
            self._make()
        options = [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(BIN_DIR / "postgres"), "-D", str(self.data), "-p", str(self.port), *options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*LAUNCHER, str(self.account.uid), *command],
                stdout=log,
                stderr=log,
                env=os.environ | dict(environment or {}),
            )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while True:
            assert self._process is not None
            assert self._process.poll() is None, self.said()
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.dsn, connect_timeout=2):
                return
            assert time.monotonic() < deadline_s, self.said()
            time.sleep(0.02)

    def stop(self, how: str = "immediate") -> None:
        """Stop it: `fast` disconnects everybody and writes all; `immediate` leaves that to the next start."""
        if self._process is not None:
            self.freeze(on=False)
            self._process.send_signal(SIGNALS[how])
            self._process.wait(READY_TIMEOUT_S)
            self._process = None

    def kill(self) -> None:
        """Kill it with all its children, none of which does anything more."""
        assert self._process is not None
        self._to_all(signal.SIGSTOP)
        self._to_all(signal.SIGKILL)
        self._process.wait(READY_TIMEOUT_S)
        self._process = None

    def freeze(self, *, on: bool = True) -> None:
        """Let it do nothing, or go on."""
        self._to_all(signal.SIGSTOP if on else signal.SIGCONT)

    def promote(self) -> None:
        """Make a standby a primary, and wait for it."""
        self.execute("select pg_promote(true, 60)")

    def execute(self, statement: str) -> object:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement)
            row = cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""

    def _make(self) -> None:
        self.data.mkdir(mode=0o700)
        os.chown(self.data, self.account.uid, -1)
        self._run("initdb", "-D", str(self.data), "-U", NAME, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self._run("postgres", "--single", "-D", str(self.data), "postgres", stdin=f"CREATE DATABASE {NAME}\n")

    def _run(self, program: str, *arguments: str, stdin: str = "") -> None:
        command = [str(BIN_DIR / program), *arguments]
        done = subprocess.run(
            [*LAUNCHER, str(self.account.uid), *command],
            input=stdin.encode(),
            capture_output=True,
            timeout=READY_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()

    def _to_all(self, signum: int) -> None:
        if self._process is None:
            return
        own = self._process.pid
        # The parent first: it starts no new children then.
        for pid in (own, *children_of(own)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)


def children_of(parent: int) -> list[int]:
    """The processes that a process has started and that still are."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(process.name))
    return found


@contextlib.contextmanager
def running(folder: Path, **settings: str) -> Iterator[Server]:
    """A server, until the end of the block."""
    with _place(folder) as place:
        server = Server(place / "a", settings)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def pair(folder: Path) -> Iterator[tuple[Server, Server, Proxy]]:
    """A primary that confirms nothing before its standby has it, that standby, and the network between them."""
    with _place(folder) as place, _between(place) as (primary, standby, network):
        try:
            primary.start()
            standby.start()
            _wait_for_stream(primary, standby)
            yield primary, standby, network
        finally:
            standby.stop()
            primary.stop()


@contextlib.contextmanager
def _between(place: Path) -> Iterator[tuple[Server, Server, Proxy]]:
    primary = Server(place / "a", {"synchronous_commit": "on", "synchronous_standby_names": "FIRST 1 (b)"})
    primary._make()
    standby = Server(place / "b")
    shutil.copytree(primary.data, standby.data)
    _supervisor._give(standby.data, standby.account)
    standby.data.chmod(0o700)
    (standby.data / "standby.signal").touch()
    os.chown(standby.data / "standby.signal", standby.account.uid, -1)
    with Proxy(("127.0.0.1", primary.port)) as network:
        standby.settings |= {
            "primary_conninfo": network.before(f"user={NAME} application_name=b gssencmode=disable"),
            "wal_retrieve_retry_interval": "100ms",
        }
        yield primary, standby, network


def _wait_for_stream(primary: Server, standby: Server) -> None:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while primary.execute("select sync_state from pg_stat_replication") != "sync":
        if "libpqwalreceiver" in standby.said():
            pytest.skip("these binaries of Postgres cannot replicate")
        assert time.monotonic() < deadline_s, standby.said()
        time.sleep(0.05)


def _account() -> _supervisor.Account:
    """Postgres does not run as root: another account then, or what looks like one."""
    if not isinstance(ACCOUNT, _supervisor.Account):
        pytest.skip(str(ACCOUNT))
    return ACCOUNT


@contextlib.contextmanager
def _place(folder: Path) -> Iterator[Path]:
    """A folder that the servers' account can get to."""
    if _account().uid == os.geteuid():
        folder.mkdir(exist_ok=True)
        yield folder
    else:
        with tempfile.TemporaryDirectory() as reachable:
            Path(reachable).chmod(0o711)
            yield Path(reachable)
