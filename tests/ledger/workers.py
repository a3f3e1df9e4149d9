"""Real processes for the tests: they start fast, because a server of their own has everything imported."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from spanledger import Config, Ledger, Rule, ToolCall
from spanledger.core.call import Resolution

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["spanledger"])
TIMEOUT_S = 60


def together(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run `work` in `count` processes that begin at the same moment; return what they return."""
    barrier = CONTEXT.Barrier(count)
    pairs = [CONTEXT.Pipe(duplex=False) for _ in range(count)]
    processes = [
        CONTEXT.Process(target=_work, args=(barrier, writer, number, work, arguments), daemon=True)
        for number, (_, writer) in enumerate(pairs)
    ]
    for process in processes:
        process.start()
    results = [reader.recv() if reader.poll(TIMEOUT_S) else None for reader, _ in pairs]
    for process in processes:
        process.join(TIMEOUT_S)
    return results


def started(work: Callable[..., Any], *arguments: Any) -> tuple[Any, Connection]:
    """Start one process; return it and where to read what it sends."""
    reader, writer = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=work, args=(writer, *arguments), daemon=True)
    process.start()
    writer.close()
    return process, reader


def _work(barrier: Any, writer: Connection, number: int, work: Callable[..., Any], arguments: Any) -> None:
    barrier.wait(TIMEOUT_S)
    try:
        writer.send(work(number, *arguments))
    except BaseException as error:
        writer.send(error)


# what they do


def refund_each(number: int, dsn: str, folder: str, orders: int) -> list[str]:
    """Refund every order, each beginning elsewhere; the side effect is a file that may exist only once."""
    with Ledger(config=Config(dsn=dsn)) as ledger:

        def refund(order: int) -> str:
            with Path(folder, str(order)).open("x") as file:
                file.write(str(number))
            return f"{order} by {number}"

        turned = [(order + number * 3) % orders for order in range(orders)]
        results = {
            n: ledger.run(ToolCall("refund", {"order": n}, workflow_id="w"), lambda n=n: refund(n)) for n in turned
        }
    return [results[order] for order in range(orders)]


def hang(writer: Connection, dsn: str, lease_s: float) -> None:
    """Begin a refund, say so, and never end."""
    ledger = Ledger(config=Config(dsn=dsn, rules=[Rule("refund", lease_s=lease_s)]))

    def handler() -> None:
        writer.send("running")
        signal.pause()

    ledger.run(ToolCall("refund", workflow_id="w"), handler)


def wait_for_consent(writer: Connection, dsn: str) -> None:
    """Say so, then make a refund that a person has to allow."""
    ledger = Ledger(config=Config(dsn=dsn, rules=[Rule("refund", approval=True, wait_timeout_s=TIMEOUT_S)]))
    writer.send("waiting")
    ledger.run(ToolCall("refund", {"order_id": "o-1"}, workflow_id="w"), lambda: "paid by the killed process")


def fork_and_run(writer: Connection, dsn: str) -> None:
    """Use a ledger, fork, and use it in the child and in the parent at the same time."""
    with Ledger(config=Config(dsn=dsn)) as ledger:

        def refund(who: str, count: int) -> list[str]:
            return [
                ledger.run(ToolCall("refund", {"who": who, "n": n}, workflow_id="w"), lambda: who) for n in range(count)
            ]

        refund("before", 1)
        child = os.fork()
        if child == 0:
            refund("child", 20)
            backend = [row["state"] for row in ledger.calls(limit=1)]
            ledger.close()
            os._exit(0 if backend == ["succeeded"] else 1)
        results = refund("parent", 20)
        _, status = os.waitpid(child, 0)
        # The parent's connection survived what the child did to its copy.
        writer.send((results, status, ledger.run(ToolCall("refund", {"who": "child", "n": 7}, workflow_id="w"), list)))


def found_at_the_bank(call: Any, key: str) -> Resolution:
    return Resolution("succeeded", "found at the bank")
