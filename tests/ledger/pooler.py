"""PgBouncer for the tests, in whatever mode."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
SERVER_CONNECTIONS = 3
NOBODY = 65534
SETTINGS = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 2000
"""


@contextlib.contextmanager
def pgbouncer(server: str, folder: Path, mode: str, size: int = SERVER_CONNECTIONS) -> Iterator[Callable[[str], str]]:
    """Start one that has so many connections for each database; turn a DSN into one that goes through it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = free.getsockname()[1]
    given = psycopg.conninfo.conninfo_to_dict(server)
    path = folder / "pgbouncer.ini"
    values = {name: given[name] for name in ("host", "port", "user")}
    path.write_text(SETTINGS.format(**values, listen=listen, size=size, mode=mode))
    # It does not run as root, and others cannot reach the server's socket.
    disguise = ["unshare", "--user", f"--map-user={NOBODY}"] if os.geteuid() == 0 else []
    with (path.parent / "log").open("w") as log:
        process = subprocess.Popen([*disguise, str(PGBOUNCER), "-q", str(path)], stderr=log, stdout=log)
    try:
        deadline_s = time.monotonic() + 10
        while not _listens(listen):
            assert process.poll() is None, (path.parent / "log").read_text()
            assert time.monotonic() < deadline_s, (path.parent / "log").read_text()
            time.sleep(0.02)
        yield lambda dsn: psycopg.conninfo.make_conninfo(dsn, host="127.0.0.1", port=listen, hostaddr="")
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
