"""Where the server spends its time in the ledger's functions.

    python -m tests.benchmarks.server_profile [--calls N] [--cases NAME...] [--new]

Rules: calls come through SQL alone, on one connection, as `tests.sql.protocol` words them. A private server counts
with pg_stat_statements (nested statements and their planning too) and track_functions; what counting costs is shown by
the time of the same calls without it. All figures are microseconds per call of the case, after a warm-up on the same
connection. The tables hold some thousand calls and are analysed, as those of a ledger in use; with --new they are empty
and the planner knows nothing of them. Needs PostgreSQL 15 or newer with its contrib modules.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from tests.benchmarks.server import a_server, migrated
from tests.sql.protocol import Protocol, item, key_of

BATCH = 32
WARM_UP = 30
CALLS_BEFORE = 3200
TEXT_MAX = 110
SETTINGS = {
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "all",
    "pg_stat_statements.track_planning": "on",
    "pg_stat_statements.max": "5000",
    "track_functions": "all",
    # Else it may change the plans while we count.
    "autovacuum": "off",
}
FUNCTIONS = """
    select funcname, calls, total_time * 1e3, self_time * 1e3 from pg_stat_user_functions
    where schemaname like 'spanledger%' and calls > 0 order by self_time desc
"""
STATEMENTS = """
    select query, calls, total_exec_time * 1e3, total_plan_time * 1e3, toplevel from pg_stat_statements
    where query !~ 'pg_stat' and calls > 0 order by total_exec_time + total_plan_time desc limit 25
"""
Case = Callable[[], dict[str, float]]


def fresh(ledger: Protocol, size: int, tool: str) -> dict[str, float]:
    """Begin and settle calls nobody has seen; return the seconds of each function."""
    names = [uuid.uuid4().hex for _ in range(size)]
    # What the client sends for a call of one short argument.
    further = {"arguments": '{"n":1}', "tool": tool, "rule": None, "call_id": None, "agent": None, "actor": None}
    items = [item(name, **further) for name in names]
    begun = time.perf_counter()
    ledger.ask("begin", items)
    middle = time.perf_counter()
    kept = {"result": "1", "result_kept": True, "cost": {}}
    ledger.ask("settle", [{"key": i["key"], "attempt_id": i["attempt_id"]} | kept for i in items])
    return {"begin": middle - begun, "settle": time.perf_counter() - middle}


def replay(ledger: Protocol, name: str, size: int) -> dict[str, float]:
    """Begin calls that have succeeded."""
    items = [item(f"{name} {n}") for n in range(size)]
    begun = time.perf_counter()
    answers = ledger.ask("begin", items)
    seconds = time.perf_counter() - begun
    if any(answer["verdict"] != "replay" for answer in answers):
        raise RuntimeError(f"not a replay: {answers[0]}")
    return {"begin": seconds}


def succeed(ledger: Protocol, name: str) -> None:
    """Make a call that can be replayed."""
    begun = ledger.begin(name)
    ledger.ask("settle", [{"key": key_of(name), "attempt_id": begun["attempt_id"], "result": "1", "result_kept": True}])


def cases(ledger: Protocol) -> Iterator[tuple[str, int, Case]]:
    """Name, calls per statement, and how to run it once."""
    ledger.budget("hot", 10**12, unit="calls", match="hot")
    yield "fresh", 1, lambda: fresh(ledger, 1, "cold")
    yield "fresh-budget", 1, lambda: fresh(ledger, 1, "hot")
    for number in range(BATCH):
        succeed(ledger, f"replayed {number}")
    yield "replay", 1, lambda: replay(ledger, "replayed", 1)
    yield "batch", BATCH, lambda: fresh(ledger, BATCH, "cold")
    yield "batch-budget", BATCH, lambda: fresh(ledger, BATCH, "hot")
    yield "batch-replay", BATCH, lambda: replay(ledger, "replayed", BATCH)


def medians(case: Case, count: int) -> dict[str, float]:
    """Median microseconds of each function, as the client sees it."""
    rows = [case() for _ in range(count)]
    return {name: statistics.median(row[name] for row in rows) * 1e6 for name in rows[0]}


def profile(sql: psycopg.Connection, case: Case, size: int, calls: int) -> None:
    """Run one case without and with counting, and print what was counted."""
    count = max(calls // size, 1)
    counting(sql, on=False)
    for _ in range(WARM_UP):
        case()
    plain = medians(case, count)
    counting(sql, on=True)
    for _ in range(WARM_UP):
        case()
    # What this session has counted so far reaches the shared counters, and is forgotten there.
    sql.execute("select pg_stat_force_next_flush()")
    sql.execute("select pg_stat_reset(), pg_stat_statements_reset()")
    counted = medians(case, count)
    sql.execute("select pg_stat_force_next_flush()")
    sql.execute("select pg_stat_clear_snapshot()")
    for name, value in plain.items():
        print(f"  {name}: {value / size:.0f} µs a call for the client, {counted[name] / size:.0f} while counting")
    show(sql, count * size)


def counting(sql: psycopg.Connection, *, on: bool) -> None:
    """Switch the counters of this session."""
    sql.execute(f"set track_functions = '{'all' if on else 'none'}'")
    sql.execute(f"set pg_stat_statements.track = '{'all' if on else 'none'}'")


def show(sql: psycopg.Connection, calls: int) -> None:
    """Print functions and statements, per call."""
    print(f"  {'function':24}{'times':>8}{'total':>9}{'self':>9}")
    for name, times, total, own in sql.execute(FUNCTIONS).fetchall():
        print(f"  {name:24}{times / calls:8.2f}{total / calls:9.1f}{own / calls:9.1f}")
    print(f"  {'statement':10}{'times':>8}{'run':>9}{'plan':>9}")
    for query, times, run, plan, top in sql.execute(STATEMENTS).fetchall():
        kind = "  top" if top else "  nested"
        print(f"{kind:12}{times / calls:8.2f}{run / calls:9.1f}{plan / calls:9.1f}  {shortened(query)}")
    print()


def shortened(query: str) -> str:
    """Return one line of a statement."""
    return re.sub(r"\s+", " ", query).strip()[:TEXT_MAX]


def main() -> None:
    """Profile the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--cases", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--new", action="store_true", help="count on empty tables")
    wanted: Any = parser.parse_args()
    with a_server(settings=SETTINGS) as dsn:
        migrated(dsn, "create extension pg_stat_statements")
        with psycopg.connect(dsn, autocommit=True) as sql:
            ledger = Protocol(sql, "acme")
            for _ in range(0 if wanted.new else CALLS_BEFORE // BATCH):
                fresh(ledger, BATCH, "cold")
            if not wanted.new:
                sql.execute("vacuum analyze")
            for name, size, case in cases(ledger):
                if not wanted.cases or name in wanted.cases:
                    print(f"{name}: {wanted.calls} calls, {size} a statement; µs per call")
                    profile(sql, case, size, wanted.calls)


if __name__ == "__main__":
    main()
