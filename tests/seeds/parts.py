"""What the seeds' tests share: one call, a counting proxy, and what other processes do."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psycopg
import pytest

from spanledger import Budget, Config, Ledger, Money, Rule, ToolCall
from spanledger.errors import BudgetExceeded

REFUND = ToolCall("refund", {"order_id": "o-1"}, workflow_id="order-1")
LEASE_S = 0.3


def never() -> None:
    pytest.fail("it ran")


def retrying(lease_s: float = LEASE_S) -> Rule:
    """What comes nearest to a takeover of a stale call: whoever finds it unknown runs it again."""
    return Rule("refund", lease_s=lease_s, on_unknown="retry")


# in other processes


def refund_slowly(number: int, dsn: str, folder: str, orders: int, handler_s: float) -> list[str]:
    """Refund every order, each process beginning elsewhere, more slowly than a lease lasts; one line an effect."""
    with Ledger(config=Config(dsn=dsn, rules=[retrying(lease_s=0.2)])) as ledger:

        def refund(order: int) -> str:
            with Path(folder, str(order)).open("a") as file:
                file.write(f"{number}\n")
            time.sleep(handler_s)
            return f"{order} by {number}"

        turned = [(order + number) % orders for order in range(orders)]
        results = {
            n: ledger.run(ToolCall("refund", {"order": n}, workflow_id="w"), lambda n=n: refund(n)) for n in turned
        }
    return [results[order] for order in range(orders)]


def stall(writer: Connection, dsn: str, error: Exception | None) -> None:
    """Begin a refund and stand still, signs of life and all, until somebody lets us go on; then end it."""
    ledger = Ledger(config=Config(dsn=dsn, rules=[retrying()]))

    def handler() -> str:
        writer.send("running")
        os.kill(os.getpid(), signal.SIGSTOP)
        if error is not None:
            raise error
        return "stale"

    try:
        writer.send(ledger.run(REFUND, handler))
    except Exception as raised:
        writer.send(raised)


def spend(number: int, dsn: str, tries: int) -> int:
    """Come up with a budget of 5.00 EUR, try to spend 1.00 EUR so often, and return how often one could."""
    budget = Budget("refunds", Money("5.00", "EUR"))
    with Ledger(config=Config(dsn=dsn, budgets=[budget])) as ledger:
        admitted = 0
        for n in range(tries):
            call = ToolCall("refund", {"by": number, "n": n}, workflow_id="w", cost=Money("1.00", "EUR"))
            with contextlib.suppress(BudgetExceeded):
                admitted += ledger.run(call, lambda: 1)
    return admitted


# on the wire


class Counting:
    """A proxy before a server that counts how often the server was done with what it was asked.

    What the decision trace is told in the background, on nobody's way, counts apart.
    """

    def __init__(self, dsn: str) -> None:
        given = psycopg.conninfo.conninfo_to_dict(dsn)
        self._done = 0
        self._told = 0
        self._target = f"{given['host']}/.s.PGSQL.{given['port']}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.dsn = psycopg.conninfo.make_conninfo(dsn, host="127.0.0.1", port=port, sslmode="disable")
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def trips(self) -> int:
        return self._done - self._told

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                threading.Thread(target=self._ask, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                self._told += data.count(b"spanledger_v1.record(")
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        seen = b""
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                seen += data
                # Every message is a letter and a length; Z says that the server is ready for the next query.
                while len(seen) > 4 and len(seen) > (size := int.from_bytes(seen[1:5], "big")):
                    self._done += seen[:1] == b"Z"
                    seen = seen[size + 1 :]
                client.sendall(data)
        server.close()
        client.close()
