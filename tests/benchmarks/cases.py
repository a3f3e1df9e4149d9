"""The cases of the benchmark.

Rules: a case makes contenders, has them alternate, and yields what it found. It measures nothing itself: that is done
in the processes it gives orders to. The floor has no budget in any case.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from tests.benchmarks.crew import Hand, far_away, hands, together
from tests.benchmarks.report import PER_S, Comparison, Note, Round, Rows, Slice, alternate, in_slices

TASKS, PROCESSES, IN_FLIGHT, FAR = 32, 4, 500, 32
FAR_CALLS = 30
SLICE = 20
HAND_OFFS = 8
REPLAYS = 100
LSN = "select pg_current_wal_insert_lsn() - '0/0', pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
Found = Comparison | Note


@dataclass
class Bench:
    """What all cases share.

    Attributes:
        dsn: The server.
        rounds: How many rounds.
        calls: Calls of one after the other in a round; a crowd carries out four times as many.
        ours: Two processes with all our actors and the floors.
        peer: Two processes of the peer, or none.
        peer_python: The peer's interpreter, or None.
        profile: Show where our own processor time goes.
    """

    dsn: str
    rounds: int
    calls: int
    ours: list[Hand]
    peer: list[Hand]
    peer_python: str | None = None
    profile: bool = False

    def sequence(self, call: str, tool: str, *, blocking: bool = False) -> Rows:
        """Compare calls that come one after the other; all that differs is the actor."""
        suffix = "-blocking" if blocking else ""
        actors = {name: (self.ours[0], f"{name}{suffix}") for name in ("ours", "floor")}
        if self.peer and not blocking:
            actors["peer"] = (self.peer[0], "peer")

        def told(hand: Hand, actor: str) -> Slice:
            # The heap is collected before a round and not before every slice: who makes garbage pays for it.
            return lambda number: hand.ask(
                "sequence", actor, call=call, tool=tool, calls=SLICE, collect=number == 0
            )["times"]  # fmt: skip

        slices = max(self.calls // SLICE, 1)
        return in_slices(self.rounds, slices, {name: told(*actor) for name, actor in actors.items()})

    def profiled(self, do: str, **order: Any) -> None:
        """Print where the processor time of one more round of ours goes."""
        if self.profile:
            print(self.ours[0].ask(do, "ours", profile=True, **order)["profile"])


def fresh(bench: Bench) -> Iterator[Found]:
    """Calls nobody has seen, one after the other."""
    for what, tool, blocking in (("AsyncLedger", "cold", False), ("Ledger", "cold", True)):
        rows = bench.sequence("fresh", tool, blocking=blocking)
        yield Comparison(f"fresh call, {what}, p50", rows, target="≤ 1.3")
    yield Comparison("fresh call with a budget, AsyncLedger, p50", bench.sequence("fresh", "hot"))
    bench.profiled("sequence", call="fresh", tool="cold", calls=bench.calls)


def replay(bench: Bench) -> Iterator[Found]:
    """Calls that succeeded before, against one SELECT; and what they write."""
    for what, blocking in (("AsyncLedger", False), ("Ledger", True)):
        rows = bench.sequence("replay", "cold", blocking=blocking)
        yield Comparison(f"replay, {what}, p50 against one SELECT", rows, target="≤ 1.5")
    bench.profiled("sequence", call="replay", tool="cold", calls=bench.calls)
    yield Note(f"what {REPLAYS} replays write, the least of 3 (the server writes some on its own)", written(bench))


def written(bench: Bench) -> dict[str, Any]:
    """Bytes of WAL and transaction ids that replays use up."""
    contenders = [("ours", bench.ours[0]), ("floor", bench.ours[0]), *(("peer", hand) for hand in bench.peer[:1])]
    figures: dict[str, Any] = {}
    with psycopg.connect(bench.dsn, autocommit=True) as sql:
        for name, hand in contenders:
            used = []
            for _ in range(3):
                before = sql.execute(LSN).fetchone() or ()
                hand.ask("sequence", name, call="replay", tool="cold", calls=REPLAYS)
                after = sql.execute(LSN).fetchone() or ()
                used.append([int(b - a) for a, b in zip(before, after, strict=True)])
            figures[name] = f"{min(u[0] for u in used)} bytes of WAL, {min(u[1] for u in used)} transaction ids"
    return figures


def one_process(bench: Bench) -> Iterator[Found]:
    """Many tasks of one loop on one hot budget."""
    order = {"call": "fresh", "tool": "hot", "calls": bench.calls * 4, "tasks": TASKS}
    ours, peer = bench.ours[:1], bench.peer[:1]
    contenders: dict[str, Round] = {
        "ours": lambda: together(ours, "ours", **order),
        "floor": lambda: together(ours, "floor", **order),
    }
    if peer:
        contenders["peer"] = lambda: together(peer, "peer", **order)
    name = f"1 process x {TASKS} tasks, one hot budget"
    yield Comparison(name, alternate(bench.rounds, contenders), PER_S, target="≥ 2")
    bench.profiled("crowd", **order)


def processes(bench: Bench) -> Iterator[Found]:
    """Some tasks in each of some processes, all on one hot budget."""
    tasks = 8
    order = {"call": "fresh", "tool": "hot", "calls": bench.calls, "tasks": tasks}
    with contextlib.ExitStack() as stack:
        crew = stack.enter_context(hands(PROCESSES, bench.dsn, ["ours", "floor"]))
        contenders: dict[str, Round] = {
            "ours": lambda: together(crew, "ours", **order),
            "floor": lambda: together(crew, "floor", **order),
        }
        if bench.peer_python:
            peers = stack.enter_context(hands(PROCESSES, bench.dsn, ["peer"], bench.peer_python))
            contenders["peer"] = lambda: together(peers, "peer", **order)
        for contender in contenders.values():
            contender()
        name = f"{PROCESSES} processes x {tasks} tasks, one hot budget"
        yield Comparison(name, alternate(bench.rounds, contenders), PER_S, target="≥ 1")


def hand_off(bench: Bench) -> Iterator[Found]:
    """Somebody waits for a result that another process is about to have."""
    late: dict[str, list[float]] = {"ours": [], "floor": []} | ({"peer": []} if bench.peer else {})

    def once(name: str, crew: list[Hand]) -> float:
        pairs = [(uuid.uuid4().hex, random.uniform(0.3, 0.6)) for _ in range(HAND_OFFS)]
        crew[0].tell("own", name, pairs=pairs)
        time.sleep(0.1)
        crew[1].tell("wait", name, pairs=pairs)
        settled, had = crew[0].hear()["at"], crew[1].hear()["at"]
        found = [b - a for a, b in zip(settled, had, strict=True)]
        late[name] += found
        return statistics.median(found)

    contenders: dict[str, Round] = {
        "ours": lambda: once("ours", bench.ours),
        "floor": lambda: once("floor", bench.ours),
    }
    if bench.peer:
        contenders["peer"] = lambda: once("peer", bench.peer)
    rows = alternate(bench.rounds, contenders)
    extra = {f"max of {name}": f"{max(values) * 1e3:.1f} ms in {len(values)}" for name, values in late.items()}
    name = "hand-off, p50 from the owner's return to the waiter's, two processes; the floor is LISTEN and NOTIFY"
    yield Comparison(name, rows, absolute="ours ≤ 5 ms", extra=extra)


def stall(bench: Bench) -> Iterator[Found]:
    """How late a ticker is while many calls are in flight in its loop."""
    order = {"call": "fresh", "tool": "hot", "calls": max(bench.calls * 4, IN_FLIGHT), "tasks": IN_FLIGHT}
    worst: dict[str, list[float]] = {"ours": [], "floor": []}

    def once(name: str) -> float:
        reply = bench.ours[0].ask("stall", name, **order)
        worst[name].append(reply["max"])
        return float(reply["p99"])

    rows = alternate(bench.rounds, {"ours": lambda: once("ours"), "floor": lambda: once("floor")})
    extra = {f"max of {name}": f"{max(values) * 1e3:.1f} ms" for name, values in worst.items()}
    name = f"a ticker of 1 ms beside {IN_FLIGHT} tasks in flight, p99 of its lateness"
    yield Comparison(name, rows, absolute="ours ≤ 5 ms", extra=extra)
    bench.profiled("stall", **order)


def far(bench: Bench) -> Iterator[Found]:
    """Many processes on one hot budget, on a network that takes its time."""
    calls = min(bench.calls, FAR_CALLS)
    with contextlib.ExitStack() as stack:
        crew = stack.enter_context(hands(FAR, bench.dsn, []))
        for delay_ms in (1.0, 5.0):
            with far_away(bench.dsn, delay_ms) as dsn:
                for kind in ("ours", "floor"):
                    for hand in crew:
                        hand.tell("open", kind, kind=kind, dsn=dsn)
                    for hand in crew:
                        hand.hear()
                yield far_from(bench, crew, calls, delay_ms)
                for kind in ("ours", "floor"):
                    for hand in crew:
                        hand.ask("close", kind)


def far_from(bench: Bench, crew: list[Hand], calls: int, delay_ms: float) -> Comparison:
    """Compare a hot budget with none, which is what a slice of the budget leased by each process would come near."""

    def told(actor: str, tool: str) -> Round:
        return lambda: together(crew, actor, call="fresh", tool=tool, calls=calls, tasks=1)

    contenders = {"ours": told("ours", "hot"), "leased": told("ours", "cold"), "floor": told("floor", "")}
    for contender in contenders.values():
        contender()
    rows = alternate(bench.rounds, contenders)
    gain = statistics.median(row["leased"] / row["ours"] for row in rows)
    extra = {
        "leased": "the same calls without a budget: the most that slices of it could give",
        "gain by slices, at most": f"{gain:.2f} x",
        "two round trips alone allow": f"{FAR / (4 * delay_ms / 1e3):,.0f} calls/s",
    }
    return Comparison(f"{FAR} processes x 1 task, one hot budget, {delay_ms:g} ms away", rows, PER_S, extra=extra)


CASES: dict[str, Callable[[Bench], Iterator[Found]]] = {
    "fresh": fresh, "replay": replay, "one-process": one_process, "processes": processes, "hand-off": hand_off,
    "stall": stall, "far": far,
}  # fmt: skip
ONLY_WHEN_ASKED = {"far"}
