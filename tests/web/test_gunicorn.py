"""The gate of Flask in worker processes of gunicorn."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from spanledger import Grant

pytest.importorskip("gunicorn")
TIMEOUT_S = 60.0


@contextlib.contextmanager
def gunicorn(dsn: str) -> Iterator[httpx.Client]:
    """Serve by two processes; gives a client."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", f"fd://{listening.fileno()}",
                   "gunicorned:app"]  # fmt: skip
        environment = {**os.environ, "SPANLEDGER_DSN": dsn, "SPANLEDGER_WORKFLOW_ID": "w"}
        process = subprocess.Popen(
            command,
            cwd=Path(__file__).parent,
            env=environment,
            pass_fds=[listening.fileno()],
            stderr=subprocess.DEVNULL,
        )
        try:
            # Who comes before there are workers waits in the queue of the socket.
            with httpx.Client(
                base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=TIMEOUT_S, trust_env=False
            ) as client:
                yield client
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)


def test_each_worker_asks_the_same_ledger(dsn, ledger):
    ledger.grant(Grant("payments:refund", actor="ada"), by="ops")
    with gunicorn(dsn) as client:
        answers = [
            client.post("/refunds/o-1?amount=5", headers={"X-User": "ada", "Connection": "close"}) for _ in "1234"
        ]
        refused = client.post("/refunds/o-1?amount=5", headers={"X-User": "bob"})
    assert [answer.json() for answer in answers] == [{"done": "refunded o-1"}] * 4
    assert (refused.status_code, refused.json()["error"]) == (403, "not_authorized")
    (row,) = ledger.calls()
    assert (row["state"], row["attempts"], row["actor"]) == ("succeeded", 1, "ada")
