"""How the ledger is reached and how it stands: its server, its calls, who is asked, and its controls.

Rules: everything is read; what it means and what to do about it is said here. Of many alike only the first few are
named.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from spanledger.config import Config
from spanledger.core.budgets import Balance
from spanledger.core.controls import stopping_row
from spanledger.doctor.finding import OK, WARN, Finding
from spanledger.doctor.keeping import of_retention

if TYPE_CHECKING:
    from spanledger.ledger._checkup import Checkup
    from spanledger.ledger._database import Database
    from spanledger.ledger._ledger import Ledger

ROUND_TRIP_MAX_S = 0.02
CLOCK_MAX_S = 5.0
NAMED_MAX = 5


def of_ledger(config: Config, found: Checkup, ledger: Ledger, database: Database) -> Iterator[Finding]:
    """Say what was found.

    Args:
        config: The configuration, of the tenant that is looked at.
        found: What was read from the server.
        ledger: To read controls.
        database: To look into what waits on disk.
    """
    spool = database.spooled()  # before anything is asked: whoever asks starts to tell what waits
    balances, controls = ledger.budgets(), ledger.controls()
    yield from _of_server(found, embedded=database.embedded)
    yield from _of_role(found, config.tenant, embedded=database.embedded)
    yield from _of_calls(found)
    yield from _of_approvals(found)
    yield from _of_spool(spool)
    yield from _few(Finding("controls", WARN, loose, "spanledger apply") for loose in found.looser)
    yield from _few(_of_switches(controls))
    yield from _few(_of_budgets(balances))
    yield from _of_windows(balances, found)
    yield of_retention(config, found.retained)


def _few(findings: Iterable[Finding]) -> Iterator[Finding]:
    every = iter(findings)
    yield from islice(every, NAMED_MAX)
    more = list(every)
    if more:
        yield Finding(more[0].about, more[0].state, f"and {len(more)} more", more[0].do)


def _of_server(found: Checkup, *, embedded: bool) -> Iterator[Finding]:
    slow = found.round_trip_s > ROUND_TRIP_MAX_S
    yield Finding(
        "round trip",
        WARN if slow else OK,
        f"{found.round_trip_s * 1e3:.2f} ms; a guarded call takes two of them",
        "move the program and its ledger closer together" if slow else None,
    )
    apart = abs(found.clock_ahead_s) > CLOCK_MAX_S
    yield Finding(
        "clock",
        WARN if apart else OK,
        f"the ledger's clock is {found.clock_ahead_s:+z.1f} s from this machine's; verdicts use the ledger's alone",
        "set the clocks, or spans and ledger rows are hard to compare" if apart else None,
    )
    yield _of_waiting(found)
    for name, value in found.risky.items():
        yield Finding("durability", WARN, f"{name} = {value}", "a crash of the server may forget calls: set it to on")
    if embedded:
        return
    if found.superuser:
        yield Finding(
            "role", WARN, f"{found.role} is a superuser", "give programs a role with rights on the ledger only"
        )


def _of_waiting(found: Checkup) -> Finding:
    if found.listens is None:
        return Finding(
            "waiting",
            OK,
            "a pooler is between this program and Postgres: who waits asks again and again, as nobody can LISTEN there",
            "nothing, unless much waits for people or other workers: then let SPANLEDGER_DSN go to Postgres itself",
        )
    if not found.listens:
        return Finding(
            "waiting",
            WARN,
            "LISTEN is not answered here: who waits asks again and again",
            "see whether SPANLEDGER_DSN names the primary server, and nothing in between that holds notifications back",
        )
    return Finding("waiting", OK, "LISTEN works: who waits is woken by whoever changes the call")


def _of_role(found: Checkup, tenant: str, *, embedded: bool) -> Iterator[Finding]:
    bind = f"spanledger role {shlex.quote(found.role)} --kind agent --tenant {shlex.quote(tenant)}"
    if found.forbidden:
        yield Finding("role", WARN, f"{found.role} may not use {', '.join(found.forbidden)}", bind)
    elif "agent" not in found.kinds:
        acts = f"as {' and '.join(found.kinds)} only" if found.kinds else "not at all"
        yield Finding("role", WARN, f"{found.role} may act for tenant {tenant} {acts}, so programs are refused", bind)
    elif not embedded:
        yield Finding("role", OK, f"{found.role} may act for tenant {tenant} as {', '.join(found.kinds)}")


def _of_calls(found: Checkup) -> Iterator[Finding]:
    running, lease_left_s, running_s = found.running
    runs = f"{running} running"
    if running and lease_left_s is not None and running_s is not None:
        runs += f", the oldest for {running_s:.0f} s; the first lease is over in {max(lease_left_s, 0):.0f} s"
    count, lapsed, since = found.unknown
    if count == 0:
        yield Finding("calls", OK, f"no outcome is unknown, {runs}")
        return
    dead = f", {lapsed} of them died unnoticed" if lapsed else ""
    yield Finding(
        "calls",
        WARN,
        f"{count} of unknown outcome since {since:%Y-%m-%d %H:%M %Z}{dead}; what they reserved stays held; {runs}",
        "spanledger calls --state unknown, then spanledger resolve KEY --outcome …",
    )


def _of_approvals(found: Checkup) -> Iterator[Finding]:
    count, oldest_s = found.pending
    if count == 0 or oldest_s is None:
        yield Finding("approvals", OK, "nothing waits for a person")
        return
    yield Finding(
        "approvals",
        WARN,
        f"{count} wait for a person, the oldest for {_duration(oldest_s)}",
        "spanledger approvals, then spanledger approve ID or spanledger deny ID",
    )


def _duration(seconds: float) -> str:
    for name, length_s in (("day(s)", 86400), ("hour(s)", 3600), ("minute(s)", 60)):
        if seconds >= length_s:
            return f"{seconds / length_s:.0f} {name}"
    return f"{seconds:.0f} s"


def _of_spool(spool: Any) -> Iterator[Finding]:
    if spool is None:
        yield Finding(
            "spool", WARN, "outcomes cannot be kept on disk while the ledger is down", "set SPANLEDGER_STATE_DIR"
        )
        return
    if spool.entries:
        age = f"{spool.entries} outcome(s) wait to be told, the oldest for {spool.oldest_age_s:.0f} s, in {spool.path}"
        yield Finding("spool", WARN, age, "start any guarded program on this machine: it tells them")
    if spool.aside:
        yield Finding("spool", WARN, f"{spool.aside} file(s) were set aside in {spool.path}", "see the log for why")


def _of_switches(controls: Iterable[dict[str, Any]]) -> Iterator[Finding]:
    for row in controls:
        if stopping_row(row):
            why = f": {row['spec']['reason']}" if row["spec"].get("reason") else ""
            said = f"{row['match']!r} is stopped by {row['applied_by']} since {row['applied_at'][:16]}{why}"
            yield Finding("switches", WARN, said, f"spanledger resume {shlex.quote(row['match'])}, when it may go on")


def _of_budgets(balances: list[Balance]) -> Iterator[Finding]:
    for balance in balances:
        name = f"{balance.name!r} of {dict(balance.scope)}" if balance.scope else f"{balance.name!r}"
        more = f"spanledger budgets top-up {shlex.quote(balance.name)} AMOUNT, or resolve what holds it"
        if balance.remaining.steps < 0:
            yield Finding("budgets", WARN, f"{name} is over its limit: {balance.remaining} of {balance.limit}", more)
        elif balance.remaining.steps == 0:
            left = f"{name} has {balance.remaining} left of {balance.limit} ({balance.held} held)"
            yield Finding("budgets", WARN, left, more)
        elif balance.past_soft:
            past = f"{name} is past its soft limit {balance.soft}: {balance.remaining} left of {balance.limit}"
            yield Finding("budgets", WARN, past, more)


def _of_windows(balances: list[Balance], found: Checkup) -> Iterator[Finding]:
    zones = sorted({balance.timezone for balance in balances if isinstance(balance.window, str)})
    if zones:
        said = f"budgets start anew by the calendar of {', '.join(zones)}; the server shows times in {found.timezone}"
        yield Finding("time zones", OK, said)
