"""Commands that tell what happened: the decision trace of a workflow, and what happens now.

Rules: nothing is changed, and all of it is read from the ledger, so that it is there when the traces are not. `tail`
looks at intervals: often while things happen, seldom while nothing does, and the less often the longer a look takes. To
be notified instead would cost whoever is watched: a notification takes a lock on the whole database at every commit.
`tail` is ended by Ctrl-C, and not by a ledger that is away for a while.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from spanledger.cli import timeline
from spanledger.cli.common import EXIT_NOT_DONE, Commands, answer, count, note_pruned, opened, shown, words
from spanledger.errors import LedgerUnavailable
from spanledger.ledger._line import jittered

ROWS_MAX: Final = 10_000
PAUSE_S_MIN: Final = 0.1
PAUSE_S_MAX: Final = 1.0
PAUSE_GROWTH: Final = 1.3
# What was last is looked for in so much of the past before it is looked for in all of it.
LATELY: Final = dt.timedelta(hours=1)
# A look may take this share of the time.
LOOKS_SHARE: Final = 0.1
# What is committed, or told, so much later is shown all the same.
LATE_S: Final = 10.0


def add_to(commands: Commands) -> None:
    """Add the commands of this group."""
    trace = commands.add(
        "trace", _trace, "Tell what a workflow did and why, from the ledger alone.", "spanledger trace order-123"
    )
    trace.add_argument("workflow", type=words, help="the workflow's id")
    tail = commands.add("tail", _tail, "Follow what happens, until Ctrl-C.", "spanledger tail --tool 'refund'")
    for name in ("workflow", "tool"):
        tail.add_argument(f"--{name}", type=words, help=f"only of this {name}")
    tail.add_argument("--lines", type=count, default=10, help="begin with so many that happened before (10)")


def _trace(arguments: argparse.Namespace) -> int:
    with opened(arguments) as ledger:
        rows = ledger.timeline(arguments.workflow, rows_max=ROWS_MAX)
        tenant = ledger.config.tenant
        notes = [note_pruned(ledger, part, before=f"{part}: ") for part in ("calls", "trail")]
    pruned = [note for note in notes if note]
    if not rows:
        print(f"spanledger: the ledger knows no workflow {shown(arguments.workflow)} of tenant {shown(tenant)}",
            *pruned, sep="\n", file=sys.stderr)  # fmt: skip
        return EXIT_NOT_DONE
    data = {
        "workflow_id": arguments.workflow,
        "tenant": tenant,
        "runs": timeline.runs(rows),
        "totals": timeline.totals(rows),
        "traces": timeline.traces(rows),
        "complete": len(rows) < ROWS_MAX,
        "pruned": pruned,
        "entries": rows,
    }
    answer(arguments, data, [*_told(arguments.workflow, tenant, rows), *pruned])
    return 0


def _told(workflow: str, tenant: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    yield f"workflow {shown(workflow)}, tenant {shown(tenant)}"
    yield from timeline.lines(rows)
    if len(rows) >= ROWS_MAX:
        yield f"… and more: these are the first {ROWS_MAX} entries"
    yield ""
    yield from timeline.summary(list(rows))


def _tail(arguments: argparse.Namespace) -> int:
    with _until_interrupted() as interrupted, opened(arguments) as ledger:
        for rows in looks(ledger.timeline, arguments.workflow, arguments.tool, arguments.lines):
            _show(rows, as_json=arguments.json)
            if interrupted():
                break
    return 0


@contextlib.contextmanager
def _until_interrupted() -> Iterator[Callable[[], bool]]:
    """End by Ctrl-C; what is given tells of one that was raised inside a callback or a destructor, and so nowhere."""
    pressed: list[int] = []

    def interrupt(signum: int, _frame: object) -> None:
        pressed.append(signum)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield lambda: bool(pressed)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, before)


def looks(read: Callable[..., Any], workflow: str | None, tool: str | None, before: int) -> Iterator[list[Any]]:
    """Look again and again; give what is new each time.

    Args:
        read: `Ledger.timeline`.
        workflow: Only of this one.
        tool: Likewise.
        before: Begin with so many that happened before.
    """
    lately = dt.datetime.now(dt.UTC) - LATELY
    last = read(workflow, tool=tool, newest=True, rows_max=before, since=lately)
    if len(last) < before:
        last = read(workflow, tool=tool, newest=True, rows_max=before)
    rows = list(reversed(last))
    since, first = (_at(rows[-1]), _at(rows[0])) if rows else (None, None)
    seen = {_identity(row) for row in rows}
    yield rows
    pause_s, took_s = PAUSE_S_MIN, 0.0
    while True:
        time.sleep(jittered(max(pause_s, took_s / LOOKS_SHARE)))
        started_s = time.monotonic()
        # Never before what was shown first: that is the past.
        after = max(first, since - dt.timedelta(seconds=LATE_S)) if first and since else None
        try:
            rows = read(workflow, tool=tool, since=after, rows_max=ROWS_MAX)
        except LedgerUnavailable as error:
            print(f"spanledger: {error}; trying again", file=sys.stderr)
            pause_s = PAUSE_S_MAX
            yield []
            continue
        took_s = time.monotonic() - started_s
        fresh = [row for row in rows if _identity(row) not in seen]
        pause_s = PAUSE_S_MIN if fresh else min(pause_s * PAUSE_GROWTH, PAUSE_S_MAX)
        seen = {_identity(row) for row in rows}
        if rows:
            first = first or _at(rows[0])
            since = max(_at(rows[-1]), since or first)
        yield fresh


def _show(rows: list[Any], *, as_json: bool) -> None:
    texts = map(json.dumps, rows) if as_json else timeline.lines(rows, workflows=True)
    for text in texts:
        print(text, flush=True)


def _at(row: dict[str, Any]) -> dt.datetime:
    return dt.datetime.fromisoformat(row["at"])


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("source", "seq", "key", "what", "attempt", "at"))
