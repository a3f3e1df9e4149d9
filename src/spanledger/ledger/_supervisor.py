"""Keeps one private Postgres alive for exactly as long as somebody uses it.

A small single-threaded process that `_embedded` starts by path; the header there has the protocol of their
locks. It imports the standard library only, so that no change elsewhere can keep a server from starting.

Postgres ends with its supervisor: on Linux by a parent-death signal, sound because this process has a
single thread; elsewhere the next supervisor stops what its predecessor left.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

if sys.platform != "win32":  # there, the client refuses before it needs any of this
    import fcntl
    import pwd

NAME = "spanledger"  # of the database and of its superuser
PORT = 5432  # only a part of the socket's file name
POLL_S = 0.5
POLL_MIN_S = 0.05  # also where the server shall not linger at all: looking all the time would take a core
LOCK_RETRY_S = 0.02
LOCK_WAIT_S = 30.0
LOG_BYTES_MAX = 4 * 2**20
SOCKET_PATH_BYTES_MAX = 103  # 107 on Linux, 103 on macOS and the BSDs
STOP_FAST_S = 10.0
STOP_HARD_S = 5.0
_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1
_LINUX = sys.platform == "linux"


class Unusable(Exception):
    """The private server cannot be run here; the text says why and is shown to the user."""


@dataclass(frozen=True)
class Orders:
    """What a client asks of a supervisor."""

    home: str
    short_dir: str  # for what cannot be in the home: its path is too long, or the server cannot get there
    bin_dir: str
    settings: dict[str, str]
    linger_s: float
    report_fd: int  # takes the reason of a failed start; closed by the end of this process


def open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def try_lock(lock_fd: int, mode: int) -> bool:
    try:
        fcntl.flock(lock_fd, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(lock_fd: int, mode: int, *, timeout_s: float) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not try_lock(lock_fd, mode):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(LOCK_RETRY_S)
    return True


def private_directory(path: Path, *, owner_uid: int | None = None) -> Path:
    """Makes a folder that nobody else can read, or makes sure that an existing one is of that kind.

    With `trust` authentication the folder is the only door, so a doubtful one is refused, not repaired.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), owner_uid):
        raise Unusable(f"{path} is not a directory of ours (owner: uid {found.st_uid}). Remove it")
    # Passing through (x) is no harm, and all that a server under another account needs.
    if found.st_mode & 0o066:
        raise Unusable(f"{path} is open to others (mode {found.st_mode & 0o777:o}). Run chmod 700 on it")
    return path


def socket_fits(directory: Path) -> bool:
    path = os.fsencode(directory / f".s.PGSQL.{PORT}")
    # libpq and Postgres take a comma for the start of another directory.
    return len(path) <= SOCKET_PATH_BYTES_MAX and not set(b',"') & set(path)


@dataclass(frozen=True)
class Account:
    """The owner of the server's files, and how a child becomes it between fork and exec."""

    uid: int
    enter: Callable[[], None]


def _choose_account(postgres: Path) -> Account:
    if os.geteuid() != 0:
        return Account(os.geteuid(), lambda: None)
    for account in _accounts_of_root():
        if _can_run(account, postgres, Path("/")):
            return account
    reason = "user namespaces are not permitted here, and user 'nobody' cannot execute"
    raise Unusable(f"PostgreSQL refuses to run as root, {reason} {postgres}. Run as another user")


def _accounts_of_root() -> Iterator[Account]:
    try:
        nobody = pwd.getpwnam("nobody")
        uid, gid = nobody.pw_uid, nobody.pw_gid
    except KeyError:
        uid = gid = 65534

    def enter_namespace() -> None:
        # Root outside, nobody inside: the files stay ours, and Postgres sees no root.
        own_gid = os.getegid()
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} 0 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {own_gid} 1")

    def become_nobody() -> None:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)

    if _LINUX:
        yield Account(0, enter_namespace)
    yield Account(uid, become_nobody)


def _can_run(account: Account, postgres: Path, directory: Path) -> bool:
    def enter() -> None:
        account.enter()
        os.chdir(directory)

    try:
        subprocess.run([postgres, "--version"], preexec_fn=enter, stdout=sys.stderr, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _choose_place(orders: Orders, account: Account) -> Path:
    """The folder of the data: the home, unless the server's account cannot get there.

    `home/data` always names the data, as a link when it is elsewhere: what was once written is found again or
    missed loudly, never silently begun anew.
    """
    home = Path(orders.home)
    named = home / "data"
    if named.is_symlink():
        place = named.readlink().parent
        if not named.exists():
            raise Unusable(f"the data is gone from {place}; remove {named} to begin an empty ledger")
    elif _can_run(account, Path(orders.bin_dir, "postgres"), home.parent):
        place = home
    elif named.exists():
        raise Unusable(f"user 'nobody', under whom the server must run, cannot reach {named}")
    else:
        place = Path(orders.short_dir)
        sys.stderr.write(f"{home} is out of reach of the server's user: data goes to {place}\n")
    return private_directory(place)


def _give(path: Path, account: Account) -> None:
    """Hands over what the last server, run by another account, left."""
    if os.geteuid() != 0 or path.lstat().st_uid == account.uid:
        return
    for file in (path, *path.rglob("*")):
        os.chown(file, account.uid, -1, follow_symlinks=False)


def _find_processes(data: Path) -> dict[int, bool]:
    """Live processes of a server on this data directory; True for a postmaster.

    Looks at what a process is, not at the id in postmaster.pid: that may be of a zombie or a stranger by now.
    """
    found = {}
    if not _LINUX:
        listing = subprocess.check_output(["/bin/ps", "-axww", "-o", "pid=,command="], text=True)
        lines = [line for line in listing.splitlines() if f"/postgres -D {data} " in line]
        return {int(line.split()[0]): True for line in lines}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title, *arguments = (process / "cmdline").read_bytes().split(b"\0")
            if title.endswith(b"/postgres") and os.fsencode(data) in arguments:
                found[int(process.name)] = True
            elif title.startswith(b"postgres:") and (process / "cwd").readlink() == data:
                found[int(process.name)] = False
    return found


def _stop_leftovers(data: Path) -> None:
    started_s = time.monotonic()
    while (data / "postmaster.pid").exists() and (found := _find_processes(data)):
        waited_s = time.monotonic() - started_s
        if waited_s > STOP_FAST_S + STOP_HARD_S:
            raise Unusable(f"an earlier server on {data} does not stop: processes {sorted(found)}")
        # Children without a postmaster have no reason to live.
        gentle = any(found.values()) and waited_s < STOP_FAST_S
        for pid in [pid for pid, is_postmaster in found.items() if is_postmaster or not gentle]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT if gentle else signal.SIGKILL)
        time.sleep(LOCK_RETRY_S)


def _disclaim_pid_file(data: Path) -> None:
    """Lets Postgres see that the postmaster.pid it finds is stale, whoever has that process id now.

    Postgres takes the id of its own parent for stale. Removing the file would remove, too, the note of the
    shared memory by which Postgres notices a child of the dead server that still writes.
    """
    pid_file = data / "postmaster.pid"
    with contextlib.suppress(FileNotFoundError):
        lines = pid_file.read_text().splitlines()
        lines[:1] = [str(os.getpid())]
        pid_file.write_text("\n".join([*lines, ""]))


class Server:
    """One Postgres, child of this process."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._bin_dir = Path(orders.bin_dir)
        self._account = _choose_account(self._bin_dir / "postgres")
        self._place = _choose_place(orders, self._account)
        # Every process of the server holds the other end: this one is readable when all are gone.
        self.gone_fd, self._alive_fd = os.pipe()

    def start(self) -> None:
        data = self._place / "data"
        self._open_to_account(self._place)
        if not data.exists():
            self._make(data)
        if not Path(self._orders.home, "data").exists():
            Path(self._orders.home, "data").symlink_to(data)
        data = data.resolve()
        _stop_leftovers(data)
        _give(data, self._account)
        _disclaim_pid_file(data)
        socket_dir = self._make_socket_dir()
        settings = {"unix_socket_directories": str(socket_dir), **self._orders.settings}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(  # noqa: S603
            [self._bin_dir / "postgres", "-D", data, *options],
            preexec_fn=self._before_exec(),  # noqa: PLW1509 - there are no threads
            pass_fds=[self._alive_fd],
        )
        os.close(self._alive_fd)
        self._announce(socket_dir)

    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """Disconnects everybody and ends the server cleanly; less so when that takes too long."""
        for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            self._process.send_signal(signum)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_FAST_S)
                return

    def _make(self, data: Path) -> None:
        # Made aside and renamed when complete, so that whatever is called `data` is whole.
        for leftover in self._place.glob("data.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)  # an initdb without a parent may still tidy up, too
        fresh = Path(tempfile.mkdtemp(prefix="data.new-", dir=self._place))
        os.chown(fresh, self._account.uid, -1)
        choices = ["-U", NAME, "-A", "trust", "-E", "UTF8", "--locale=C", "-k"]
        self._run(["initdb", "-D", str(fresh), *choices])
        single = ["postgres", "--single", "-D", str(fresh), "-c", "exit_on_error=on", "postgres"]
        self._run(single, stdin=f"CREATE DATABASE {NAME}\n")
        fresh.rename(data)

    def _run(self, command: list[str], *, stdin: str = "") -> None:
        command[0] = str(self._bin_dir / command[0])
        enter = self._before_exec()
        subprocess.run(command, input=stdin.encode(), stdout=sys.stderr, preexec_fn=enter, check=True)  # noqa: S603

    def _before_exec(self) -> Callable[[], None]:
        libc = ctypes.CDLL(None)
        parent_pid = os.getpid()

        def before_exec() -> None:
            self._account.enter()
            if _LINUX:  # last, since a change of the user clears it
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
            if os.getppid() != parent_pid:
                os._exit(1)

        return before_exec

    def _make_socket_dir(self) -> Path:
        path = self._place / "run"
        if not socket_fits(path):
            path = private_directory(Path(self._orders.short_dir)) / "run"
        self._open_to_account(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        _give(path, self._account)
        private_directory(path, owner_uid=self._account.uid)
        for leftover in path.glob(".s.PGSQL.*"):
            leftover.unlink()
        return path

    def _open_to_account(self, directory: Path) -> None:
        if self._account.uid != os.geteuid():
            directory.chmod(0o711)

    def _announce(self, socket_dir: Path) -> None:
        fresh = Path(self._orders.home, "server.json.new")
        fresh.write_text(json.dumps({"socket_dir": str(socket_dir), "pid": self._process.pid}))
        fresh.rename(fresh.with_suffix(""))


def _supervise(orders: Orders) -> None:
    home = Path(orders.home)
    lock_fd = open_lock(home / "supervisor.lock")
    if not wait_for_lock(lock_fd, fcntl.LOCK_EX, timeout_s=LOCK_WAIT_S):
        raise Unusable(f"another supervisor is busy in {home}")
    (home / "server.json").unlink(missing_ok=True)
    users_fd = open_lock(home / "users.lock")
    if try_lock(users_fd, fcntl.LOCK_EX):
        return
    if (home / "server.log").stat().st_size > LOG_BYTES_MAX:
        os.truncate(home / "server.log", 0)
    server = Server(orders)
    server.start()
    try:
        _watch(server, users_fd, linger_s=orders.linger_s)
    finally:
        server.stop()


def _watch(server: Server, users_fd: int, *, linger_s: float) -> None:
    """Returns, holding users.lock, when nobody has used the server for the given time."""
    idle_since_s: float | None = None
    while True:
        select.select([server.gone_fd], [], [], max(POLL_MIN_S, min(POLL_S, linger_s / 2)))
        if not server.is_running():
            raise Unusable("PostgreSQL ended by itself")
        if not try_lock(users_fd, fcntl.LOCK_EX):
            idle_since_s = None
            continue
        now_s = time.monotonic()
        idle_since_s = now_s if idle_since_s is None else idle_since_s
        if now_s - idle_since_s >= linger_s:
            return
        fcntl.flock(users_fd, fcntl.LOCK_UN)


def _heed_signals() -> None:
    def on_terminate(*_: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)  # once is enough
        raise Unusable("the supervisor was told to stop")

    # Handlers, not SIG_IGN: that would be inherited by Postgres.
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, lambda *_: None)
    signal.signal(signal.SIGTERM, on_terminate)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def main(orders: Orders) -> None:
    """Runs in the background; the client waits for the foreground half only, so it keeps no zombie."""
    if os.fork() != 0:
        os._exit(0)
    os.umask(0o077)
    try:
        _heed_signals()
        _supervise(orders)
    except (Unusable, OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"supervisor: {error}\n")
        with contextlib.suppress(OSError):  # the client did not wait
            os.write(orders.report_fd, str(error).encode())
        sys.exit(1)


if __name__ == "__main__":
    main(Orders(**json.loads(sys.argv[1])))
