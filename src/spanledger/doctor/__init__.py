"""Is this program guarded, and can its ledger be trusted? Findings, each with what to do about it.

Rules: every finding is looked up in the real thing: the configuration is read, the ledger asked, the libraries
imported and patched, a refusal tried. One that fails does not stop the others. No call is made and no control
applied; a private ledger is started, as the first call would.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator

import wrapt

from spanledger.config import Config, shown
from spanledger.doctor.connectors import of_connectors
from spanledger.doctor.finding import BAD, OK, WARN, Finding
from spanledger.doctor.spans import of_spans
from spanledger.doctor.start import of_export, of_required
from spanledger.errors import SpanledgerError
from spanledger.instrument import _registry
from spanledger.instrument.library import Library


def examine(tenant: str | None = None) -> list[Finding]:
    """Look at everything that a guarded program depends on.

    Args:
        tenant: Whose calls and controls are looked at; the configured tenant if None.
    """
    findings = [Finding("version", OK, _versions())]
    try:
        config = Config.from_env()
        config = dataclasses.replace(config, tenant=tenant or config.tenant)
    except SpanledgerError as error:
        return [*findings, Finding("configuration", BAD, str(error), "correct it; nothing else was looked at")]
    enforced = config.mode == "enforce"
    findings.append(Finding("configuration", OK if enforced else BAD, shown(config), _to_configure(config)))
    parts = {
        "ledger": _ledger,
        "libraries": _libraries,
        "connectors": of_connectors,
        "spans": of_spans,
        "required": of_required,
        "export": of_export,
    }
    for about, look in parts.items():
        findings += _safely(about, look, config)
    return findings


def _to_configure(config: Config) -> str | None:
    if config.mode == "off":
        return "nothing is guarded: unset SPANLEDGER_MODE or remove `mode` from the file"
    if config.mode == "shadow":
        return "nothing is refused, only recorded (`spanledger shadow`): SPANLEDGER_MODE=enforce guards"
    if not config.rules:
        return "name the tools that change the world in a spanledger.toml, looked for here, or by SPANLEDGER_CONFIG"
    return None


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
    from spanledger.doctor.standing import of_ledger
    from spanledger.ledger import _checkup
    from spanledger.ledger._ledger import Ledger
    from spanledger.ledger._opening import open_database

    database = open_database(config, apply=False)
    try:
        found = _checkup.look(database, config)
        where = f"Postgres {found.server_version} at {found.address}, role {found.role}"
        local = (
            "every process and machine that shares calls needs the same SPANLEDGER_DSN" if database.embedded else None
        )
        yield Finding("ledger", OK, where + (" (private to this machine)" if local else ""), local)
        yield from of_ledger(config, found, Ledger(config=config, database=database), database)
    finally:
        database.close()


def _libraries(config: Config) -> Iterator[Finding]:
    from spanledger._setup import instrument, uninstrument

    if config.mode == "off":
        return
    report = instrument(config)  # raises where a refusal would not stop a span
    try:
        yield Finding("spans", OK, "a refused tool span was tried, and its body did not run")
        for library in map(_registry.load, report.attached):
            yield from _of_library(library, _registry.installed(library) or "")
        if not report.attached:
            others = ", ".join(_registry.names())
            yield Finding(
                "libraries", OK, f"none installed that spanledger knows ({others}); @tool and spans are guarded"
            )
        for passed_over in _registry.passed_over():
            yield Finding("libraries", WARN, passed_over, "give one of them another name, or take one away")
        for broken in report.broken:
            yield Finding("libraries", WARN, f"cannot be used: {broken}", "ask the package that publishes it")
    finally:
        uninstrument()


def _of_library(library: Library, version: str) -> Iterator[Finding]:
    targets = [wrap.target for wrap in _registry.wraps_of(library, version)]
    try:
        there = [target for target in targets if _is_there(target)]
    except SpanledgerError as error:
        yield Finding("libraries", BAD, f"{library.name} {version}: {error}")
        return
    private = sum(any(part.startswith("_") for part in target.replace(":", ".").split(".")) for target in there)
    says = f"{library.name} {version}: {len(there)} functions guarded or traced, {private} of them private"
    if _registry.is_known(library, version):
        yield Finding("libraries", OK, says)
    else:
        known = f"known is {library.requires}: look whether its calls appear in the trace"
        yield Finding("libraries", WARN, says, known)
    for target in (*targets, *library.hides, *library.tells, *library.defers):
        if not _is_there(target):
            yield Finding(
                "libraries", WARN, f"{library.name}: {target} is not where it should be", "its calls pass unseen"
            )


def _is_there(target: str) -> bool:
    """Tell whether a function is where a library says; importing its module wraps it.

    Raises:
        WrapMissing: It runs tools that something is about, and is not there.
    """
    module, _, path = target.partition(":")
    try:
        wrapt.resolve_path(importlib.import_module(module), path)
    except SpanledgerError:
        raise
    except Exception:  # noqa: BLE001 - whatever its import raises
        return False
    return True
