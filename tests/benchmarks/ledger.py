"""A guarded call against the least that Postgres could be asked to do.

    python -m tests.benchmarks.ledger [--dsn DSN] [--rounds N] [--calls N] [--cases NAME...] [--peer PYTHON]

Rules: the floor is two prepared statements per call, INSERT … ON CONFLICT DO NOTHING RETURNING and UPDATE … RETURNING,
through psycopg, autocommit, on the same server, at the same concurrency, in the same run. Without a DSN a private
server is started, with fsync on. The tables hold some thousand calls and are analysed before anything is measured, as
a ledger in use is; with --new they are empty and nobody has told the planner anything.
"""

from __future__ import annotations

import argparse
import contextlib
import json

import psycopg
from tests.benchmarks.actors import FLOOR_TABLE, MAKERS
from tests.benchmarks.cases import CASES, ONLY_WHEN_ASKED, Bench
from tests.benchmarks.crew import hands, together
from tests.benchmarks.server import a_server, migrated

CALLS_BEFORE = 2000
TASKS_BEFORE = 32


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dsn", help="a Postgres to use, which keeps what was written; a private one if not given")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=600, help="calls one after the other per round")
    parser.add_argument("--cases", nargs="+", choices=CASES, metavar="NAME", help=f"some of {', '.join(CASES)}")
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that has agent-ledger[postgres]==0.2.1")
    parser.add_argument("--profile", action="store_true", help="show where our processor time goes")
    parser.add_argument("--new", action="store_true", help="measure on empty tables")
    parser.add_argument("--json", action="store_true", help="print JSON instead, a line per comparison")
    return parser.parse_args()


def fill(bench: Bench) -> None:
    """Make the tables those of a ledger in use, and every connection and plan warm."""
    order = {"call": "fresh", "calls": CALLS_BEFORE, "tasks": TASKS_BEFORE}
    together(bench.ours[:1], "ours", tool="cold", **order)
    together(bench.ours[:1], "floor", tool="", **order)
    together(bench.peer[:1], "peer", tool="", **order) if bench.peer else None
    with psycopg.connect(bench.dsn, autocommit=True) as connection:
        connection.execute("vacuum analyze")
    for hand in bench.ours:
        for kind in MAKERS:
            for call in ("fresh", "replay"):
                hand.ask("sequence", kind, call=call, tool="hot", calls=50)


def main() -> None:
    """Run the cases asked for."""
    wanted = parsed()
    with contextlib.ExitStack() as stack:
        dsn = stack.enter_context(a_server(wanted.dsn))
        migrated(dsn, FLOOR_TABLE)
        ours = stack.enter_context(hands(2, dsn, list(MAKERS)))
        peer = stack.enter_context(hands(2, dsn, ["peer"], wanted.peer)) if wanted.peer else []
        bench = Bench(dsn, wanted.rounds, wanted.calls, ours, peer, wanted.peer, profile=wanted.profile)
        if not wanted.new:
            fill(bench)
        for name in wanted.cases or [name for name in CASES if name not in ONLY_WHEN_ASKED]:
            for found in CASES[name](bench):
                print(json.dumps(found.data()) if wanted.json else found.text(), flush=True)


if __name__ == "__main__":
    main()
