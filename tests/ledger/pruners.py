"""Real processes that prune, and that make calls while others prune."""

from __future__ import annotations

from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from spanledger import Config, Ledger, Money, Rule, ToolCall
from spanledger.errors import ResultNotKept

AGE_S = 90 * 86400.0
PRICE = Money("0.10", "EUR")


def prune(number: int, dsn: str) -> dict[str, int]:
    """Prune; how many of each kind it was."""
    # A busy machine may take its time: how long a batch takes is not what is tested.
    with Ledger(config=Config(dsn=dsn, ledger_timeout_s=60)) as ledger:
        return dict(ledger.prune(by=f"ops {number}", older_than_s=AGE_S).counts)


def prune_until_killed(writer: Connection, dsn: str) -> None:
    """Say that it begins, and prune."""
    with Ledger(config=Config(dsn=dsn)) as ledger:
        ledger.calls(limit=1)
        writer.send("ready")
        ledger.prune(by="ops", older_than_s=AGE_S)


def order(n: int) -> ToolCall:
    return ToolCall("refund", {"order": n}, workflow_id="w", cost=PRICE)


def refund_all(number: int, dsn: str, folder: str, orders: int) -> dict[str, int]:
    """Refund every order, and again; the side effect is a file that may exist only once."""
    ends: Counter[str] = Counter()

    def refund(n: int) -> int:
        Path(folder, str(n)).open("x").close()
        ends["ran"] += 1
        return n

    with Ledger(config=Config(dsn=dsn, rules=[Rule("refund", on_unknown="retry")])) as ledger:
        for n in [(n + number * 7) % orders for n in range(orders)] * 2:
            try:
                assert ledger.run(order(n), lambda n=n: refund(n)) == n
                ends["had"] += 1
            except ResultNotKept:
                ends["gone"] += 1
    return dict(ends)
