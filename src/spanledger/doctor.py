"""Is this program guarded, and can its ledger be trusted? Findings, each with what to do about it.

Rules: every finding is looked up in the real thing: the configuration is read, the ledger asked, the libraries
imported and patched, a refusal tried. One that fails does not stop the others. No call is made and no control
applied; a private ledger is started, as the first call would.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from spanledger.config import Config, shown
from spanledger.core.budgets import Balance
from spanledger.errors import SpanledgerError

OK, WARN, BAD = "ok", "warn", "bad"
ROUND_TRIP_MAX_S = 0.02
CLOCK_MAX_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        about: What was looked at, in a word.
        state: ``"ok"``, ``"warn"``: works, but look at it; ``"bad"``: a program here is not guarded or does not start.
        says: What was found.
        do: What to do about it; None where nothing is to be done.
    """

    about: str
    state: str
    says: str
    do: str | None = None


def examine() -> list[Finding]:
    """Look at everything that a guarded program depends on."""
    findings = [Finding("version", OK, _versions())]
    try:
        config = Config.from_env()
    except SpanledgerError as error:
        return [*findings, Finding("configuration", BAD, str(error), "correct it; nothing else was looked at")]
    off = "nothing is guarded: unset SPANLEDGER_MODE or remove `mode` from the file" if config.mode == "off" else None
    findings.append(Finding("configuration", BAD if off else OK, shown(config), off))
    for about, look in (("ledger", _ledger), ("libraries", _libraries), ("export", _export)):
        findings += _safely(about, look, config)
    return findings


def _safely(about: str, look: Callable[[Config], Iterator[Finding]], config: Config) -> Iterator[Finding]:
    try:
        yield from look(config)
    except SpanledgerError as error:
        yield Finding(about, BAD, str(error))
    except Exception as error:  # noqa: BLE001 - the other findings are worth having
        yield Finding(about, BAD, f"{type(error).__name__}: {error}")


def _versions() -> str:
    names = ("spanledger", "opentelemetry-sdk", "wrapt", "psycopg")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def _ledger(config: Config) -> Iterator[Finding]:
    from spanledger.ledger import _checkup
    from spanledger.ledger._ledger import Ledger, open_database

    database = open_database(dataclasses.replace(config, budgets=()))  # with them, it would apply them
    try:
        found = _checkup.look(database, config.tenant)
        where = f"Postgres {found.server_version} at {found.address}, role {found.role}"
        local = (
            "every process and machine that shares calls needs the same SPANLEDGER_DSN" if database.embedded else None
        )
        yield Finding("ledger", OK, where + (" (private to this machine)" if local else ""), local)
        yield from _of_server(found, embedded=database.embedded)
        yield from _of_calls(found)
        yield from _of_spool(database.spooled())
        yield from _of_budgets(config, Ledger(config=config, database=database).budgets())
    finally:
        database.close()


def _of_server(found: Any, *, embedded: bool) -> Iterator[Finding]:
    if found.round_trip_s > ROUND_TRIP_MAX_S:
        yield Finding(
            "round trip",
            WARN,
            f"{found.round_trip_s * 1e3:.1f} ms; a guarded call takes two of them",
            "move the program and its ledger closer together",
        )
    if abs(found.clock_ahead_s) > CLOCK_MAX_S:
        yield Finding(
            "clock",
            WARN,
            f"the ledger's clock is {found.clock_ahead_s:+.0f} s from this machine's; verdicts use the ledger's alone",
            "set the clocks, or spans and ledger rows are hard to compare",
        )
    if found.pooled:
        yield Finding("pooler", OK, "a pooler is between this program and Postgres")
    for name, value in found.risky.items():
        yield Finding("durability", WARN, f"{name} = {value}", "a crash of the server may forget calls: set it to on")
    if found.superuser and not embedded:
        yield Finding(
            "role", WARN, f"{found.role} is a superuser", "give programs a role with rights on the ledger only"
        )
    if found.forbidden:
        names = ", ".join(found.forbidden)
        yield Finding(
            "role", WARN, f"{found.role} may not use {names}", f"spanledger role {found.role} --kind agent --tenant …"
        )


def _of_calls(found: Any) -> Iterator[Finding]:
    count, lapsed, since = found.unknown
    if count == 0:
        yield Finding("calls", OK, f"no outcome is unknown, {found.running} running")
        return
    dead = f", {lapsed} of them died unnoticed" if lapsed else ""
    yield Finding(
        "calls",
        WARN,
        f"{count} of unknown outcome since {since:%Y-%m-%d %H:%M %Z}{dead}; what they reserved stays held",
        "spanledger calls --state unknown, then spanledger resolve KEY --outcome …",
    )


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


def _of_budgets(config: Config, balances: list[Balance]) -> Iterator[Finding]:
    known = {balance.name for balance in balances}
    for budget in config.budgets:
        if budget.name not in known:
            yield Finding("budgets", WARN, f"{budget.name!r} is in the configuration only", "spanledger apply")
    for balance in balances:
        if balance.remaining.steps <= 0:
            left = f"{balance.name!r} has {balance.remaining} left of {balance.limit} ({balance.held} held)"
            yield Finding("budgets", WARN, left, "raise the limit and `spanledger apply`, or resolve what holds it")


def _libraries(config: Config) -> Iterator[Finding]:
    from spanledger._setup import instrument, uninstrument
    from spanledger.instrument import _registry

    if config.mode == "off":
        return
    report = instrument(config)  # raises where a refusal would not stop a span
    try:
        yield Finding("spans", OK, "a refused tool span was tried, and its body did not run")
        wraps = {name: _registry.load(name).wraps for name in report.attached}
        for name, of_library in wraps.items():
            for module in dict.fromkeys(wrap.module for wrap in of_library):
                importlib.import_module(module)
            yield Finding("libraries", OK, f"{name}: {len(of_library)} functions guarded or traced")
        if not wraps:
            others = ", ".join(_registry.LIBRARIES)
            yield Finding(
                "libraries", OK, f"none installed that spanledger knows ({others}); @tool and spans are guarded"
            )
        for target in report.missing:
            yield Finding("libraries", WARN, f"{target} is not where it should be", "its calls are not traced")
    finally:
        uninstrument()


def _export(_: Config) -> Iterator[Finding]:
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        yield Finding("export", WARN, "OTEL_SDK_DISABLED is true: calls are guarded, no span is exported")
        return
    wanted = [name.strip() for name in os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(",") if name.strip()]
    for name in wanted:
        if name != "none" and not _has_exporter(name):
            do = "install it or correct OTEL_TRACES_EXPORTER: opentelemetry-instrument attaches nothing like this"
            yield Finding("export", BAD, f"there is no trace exporter {name!r}", do)
    if "otlp" in wanted:
        endpoint = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        unset = None if endpoint else "set OTEL_EXPORTER_OTLP_ENDPOINT to your backend's"
        yield Finding("export", OK, f"traces go by OTLP to {endpoint or 'a collector on this machine'}", unset)


def _has_exporter(name: str) -> bool:
    return bool(importlib.metadata.entry_points(group="opentelemetry_traces_exporter", name=name))
