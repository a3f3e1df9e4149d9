"""A program as servers with worker processes are: it uses the ledger, forks, and all use it at once.

    python prefork.py DSN os_exit | exception | end | multiprocessing

It prints one line of JSON: how the children ended, what the parent was given, and which of its connections are left.
Parent and children use the same two ledgers, made before the fork; the parent forks while threads of it are in the
middle of calls, and while a call of it runs that only signs of life keep alive.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
import threading
import warnings

import psycopg

from spanledger import AsyncLedger, Budget, Calls, Config, Ledger, Rule, ToolCall

CHILDREN = 3
CALLS = 8
LEASE_S = 1.0
BACKENDS = (
    "select array_agg(pid) from pg_stat_activity where application_name = 'spanledger' and datname = current_database()"
)


def call(who: str, n: int) -> ToolCall:
    return ToolCall("refund", {"who": who, "n": n}, workflow_id="w")


def blocking(ledger: Ledger, who: str) -> list[str]:
    return [ledger.run(call(who, n), lambda n=n: f"{who}{n}") for n in range(CALLS)]


def awaiting(ledger: AsyncLedger, who: str) -> list[str]:
    async def main() -> list[str]:
        return await asyncio.gather(*(ledger.run(call(who, n), lambda n=n: f"{who}{n}") for n in range(CALLS)))

    return asyncio.run(main())


def child(ledgers: tuple[Ledger, AsyncLedger], number: int) -> None:
    """Calls of its own and calls that all want, in threads and in a loop."""
    one, other = ledgers
    given: list[list[str]] = []
    thread = threading.Thread(target=lambda: given.append(blocking(one, f"thread-{number}-")))
    thread.start()
    given += [awaiting(other, f"loop-{number}-"), blocking(one, "all-"), awaiting(other, "all-")]
    thread.join()
    expected = {f"{who}{n}" for who in (f"thread-{number}-", f"loop-{number}-", "all-") for n in range(CALLS)}
    if {value for values in given for value in values} != expected:
        os._exit(9)


def forked(ledgers: tuple[Ledger, AsyncLedger], number: int, how: str) -> int:
    pid = os.fork()
    if pid != 0:
        return pid
    child(ledgers, number)
    match how:
        case "os_exit":
            os._exit(0)
        case "exception":
            raise RuntimeError("a worker that does not know better")
    sys.exit(0)


def all_forked(ledgers: tuple[Ledger, AsyncLedger], how: str) -> list[int]:
    """Fork, work along with the children, and say how they ended."""
    if how == "multiprocessing":
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=child, args=(ledgers, n)) for n in range(CHILDREN)]
        for process in processes:
            process.start()
        awaiting(ledgers[1], "all-")
        for process in processes:
            process.join(60)
        return [process.exitcode or 0 for process in processes]
    pids = [forked(ledgers, number, how) for number in range(CHILDREN)]
    awaiting(ledgers[1], "all-")
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def backends(dsn: str) -> set[int]:
    with psycopg.connect(dsn, autocommit=True) as sql:
        return set(sql.execute(BACKENDS).fetchone()[0])  # type: ignore[index]


def main(dsn: str, how: str) -> None:
    config = Config(dsn=dsn, rules=[Rule("long", lease_s=LEASE_S)], budgets=[Budget("all", Calls(10_000))])
    # A child that ends by an exception leaves this block too.
    with Ledger(config=config) as ledger:
        print(json.dumps(played((ledger, AsyncLedger(config=config)), dsn, how)))


def played(ledgers: tuple[Ledger, AsyncLedger], dsn: str, how: str) -> dict[str, object]:
    ledger = ledgers[0]
    before = blocking(ledger, "before-") + awaiting(ledgers[1], "before-")
    running = ledger.begin(ToolCall("long", workflow_id="w"))
    stop = threading.Event()
    ended: list[str] = []

    def work(number: int) -> None:
        n = 0
        while not stop.is_set():
            ended.append(ledger.run(call(f"parent-{number}-", n), lambda: "done"))
            n += 1

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(2)]
    for thread in threads:
        thread.start()
    while len(ended) < 10:
        pass
    had = backends(dsn)
    codes = all_forked(ledgers, how)
    stop.set()
    for thread in threads:
        thread.join()
    return {
        "children": codes,
        "kept": had <= backends(dsn),
        "before": before == [f"before-{n}" for n in range(CALLS)] * 2,
        "owned": ledger.settle(running, "done"),
        "lapsed": len(ledger.history(running.key)),
        "replayed": blocking(ledger, "loop-1-") == [f"loop-1-{n}" for n in range(CALLS)],
        "states": sorted({row["state"] for row in ledger.calls(limit=10_000)}),
        "calls": ledger.budget("all").spent.steps,
        "held": ledger.budget("all").held.steps,
        "expected": len(ended) + CALLS * (2 + 2 * CHILDREN) + 1,
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what this is about
    main(*sys.argv[1:])
