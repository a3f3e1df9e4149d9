"""A private server that takes long to start: everybody who needs it waits for it, whoever has it started."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from spanledger import Config, Ledger, ToolCall
from spanledger.ledger._embedded import EmbeddedPostgres


def test_calls_that_come_while_the_private_server_starts_wait_for_it(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPANLEDGER_STATE_DIR", str(tmp_path / "state"))
    started, ready = [], EmbeddedPostgres.dsn

    def slow(self: EmbeddedPostgres) -> str:
        if not started:
            started.append(self)
            time.sleep(1.5)
        return ready(self)

    monkeypatch.setattr(EmbeddedPostgres, "dsn", slow)
    done: list[int] = []
    with Ledger(config=Config(ledger_timeout_s=1.0)) as ledger:

        def run(n: int) -> None:
            done.append(ledger.run(ToolCall("pay", {"n": n}, workflow_id="w"), lambda: n))

        threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert sorted(done) == [0, 1, 2, 3]
