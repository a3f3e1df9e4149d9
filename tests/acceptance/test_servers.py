"""Servers with worker processes: each worker is guarded and exports, and nothing is settled twice or lost at the end.

Of those that are not installed, the tests are skipped: `pip install celery uwsgi`.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.conftest import BIN

from spanledger import Ledger
from spanledger.testing import OtlpReceiver

PROGRAM = Path(__file__).with_name("refunding.py")
ORDERS = [f"o-{number}" for number in range(20)]
WORKERS = 3
START_MAX_S = STOP_MAX_S = 60.0

Ask = Callable[[str], str]


class OverSocket(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("server", timeout=START_MAX_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(START_MAX_S)
        self.sock.connect(str(self._path))


def ask(path: Path, order_id: str) -> str:
    connection = OverSocket(path)
    try:
        connection.request("GET", f"/{order_id}")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def until(there: Callable[[], Any], process: subprocess.Popen[str], log: Path) -> None:
    end_s = time.monotonic() + START_MAX_S
    while not there():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end_s, log.read_text()
        time.sleep(0.05)


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the application is; its path is short, for a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        shutil.copy(PROGRAM, place)
        (Path(place) / "queue").mkdir()
        yield Path(place)


@pytest.fixture
def backend() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture
def running(place: Path, dsn: str, backend: OtlpReceiver) -> Any:
    """Run a server's command until the block is left; then it is told to stop as an operator does."""

    @contextlib.contextmanager
    def running(*command: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
        (place / "spanledger.toml").write_text('[[rules]]\nmatch = "refund"\nidentity = "arguments"\n')
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("OTEL_", "SPANLEDGER_", "COV"))}
        environment = {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "SPANLEDGER_DSN": dsn,
            "SPANLEDGER_WORKFLOW_ID": "w",
            "OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "600000",  # what is exported was flushed at the end
        }
        log = place / "log"
        with log.open("w") as out:
            process = subprocess.Popen(
                ["opentelemetry-instrument", *command], cwd=place, env=kept | environment, stdout=out, stderr=out,
                text=True, start_new_session=True,
            )  # fmt: skip
            try:
                yield process, log
                process.send_signal(signal.SIGTERM)
                process.wait(STOP_MAX_S)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    return running


def settled_once_and_exported(ledger: Ledger, backend: OtlpReceiver, place: Path) -> None:
    """Every order was refunded once, by whichever workers took them, and every span of theirs arrived."""
    done = [json.loads(line) for line in (place / "refunds.jsonl").read_text().splitlines()]
    assert sorted(item["order_id"] for item in done) == sorted(ORDERS)
    calls = ledger.calls(limit=1000)
    assert [(call["state"], call["attempt"]) for call in calls] == [("succeeded", 1)] * len(ORDERS)
    spans = [span for span in backend.spans if span.name == "execute_tool refund"]
    verdicts = collections.Counter(span.attributes["spanledger.verdict"] for span in spans)
    assert verdicts == {"run": len(ORDERS), "replay": len(ORDERS)}, (place / "log").read_text()
    assert len({span.span_id for span in spans}) == 2 * len(ORDERS)
    ended = [
        span.attributes["spanledger.call.outcome"] for span in spans if "spanledger.call.outcome" in span.attributes
    ]
    assert ended == ["succeeded"] * len(ORDERS)


GUNICORN = ["gunicorn", "--workers", str(WORKERS), "--bind", "unix:s", "refunding:wsgi"]
UVICORN = ["uvicorn", "--workers", str(WORKERS), "--uds", "s", "refunding:asgi"]
UWSGI = ["uwsgi", "--master", "--enable-threads", "--die-on-term", "--need-app", "--processes", str(WORKERS)]
UWSGI += ["--http-socket", "s", "--module", "refunding:wsgi"]
# How each is started, and what its log says of a worker.
SERVERS = {
    "gunicorn": (GUNICORN, "Booting worker"),
    "gunicorn, threads": ([*GUNICORN, "--threads", "4"], "Booting worker"),
    "gunicorn, preloaded": ([*GUNICORN, "--preload"], "Booting worker"),
    "uvicorn": (UVICORN, "Application startup complete"),
    "uwsgi": (UWSGI, "spawned uWSGI worker"),
    "uwsgi, lazy": ([*UWSGI, "--lazy-apps"], "WSGI app 0"),
}


def needed(name: str) -> None:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"pip install {name}")


@pytest.mark.parametrize(("command", "worker"), SERVERS.values(), ids=SERVERS)
def test_every_worker_is_guarded_and_exports_all_it_did(command, worker, running, place, ledger, backend):
    needed(command[0])
    with running(*command) as (process, log):
        until(lambda: log.read_text().count(worker) >= WORKERS and listens(place / "s"), process, log)
        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(lambda order: ask(place / "s", order), ORDERS)) == {"refunded"}
            assert set(threads.map(lambda order: ask(place / "s", order), ORDERS)) == {"CallReplayed"}
    settled_once_and_exported(ledger, backend, place)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_so_is_every_process_of_multiprocessing(method, running, place, ledger, backend):
    with running("python", "refunding.py", method, *ORDERS) as (process, _):
        assert process.wait(START_MAX_S) == 0
    settled_once_and_exported(ledger, backend, place)


def test_so_is_every_worker_of_celery(running, place, ledger, backend, monkeypatch):
    needed("celery")
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    import refunding

    worker = ["celery", "-A", "refunding", "worker", "--loglevel", "INFO", "--concurrency", str(WORKERS)]
    with running(*worker) as (process, log):
        for count in (1, 2):
            for order in ORDERS:
                refunding.app.send_task("refund", [order])
            until(lambda n=count: log.read_text().count("succeeded in") == n * len(ORDERS), process, log)
    settled_once_and_exported(ledger, backend, place)
