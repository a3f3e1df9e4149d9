"""How far the spans are guarded that installed frameworks and instrumentations make themselves.

Rules: read from the table of scopes. What a library of ours wraps is not said again; what cannot be guarded is said.
"""

from __future__ import annotations

from collections.abc import Iterator

from spanledger.config import Config
from spanledger.doctor.finding import OK, WARN, Finding
from spanledger.instrument import _registry
from spanledger.telemetry import scopes
from spanledger.telemetry.scopes import Says, Scope


def of_spans(config: Config) -> Iterator[Finding]:
    """Say what holds for each scope whose package is installed and that no library of ours stands for."""
    if config.mode == "off":
        return
    stood_for = set(_registry.LIBRARIES)
    for library in _registry.published():
        stood_for |= {library.name, *library.own_spans}
    for scope in scopes.installed():
        if stood_for.isdisjoint((scope.library, scope.name)):
            yield _of(scope)


def _of(scope: Scope) -> Finding:
    if scope.unstoppable:
        runs = f"of {scope.name}: not guarded, because its tools run whatever a span raises"
        return Finding("spans", WARN, runs, "guard its tools with @spanledger.tool")
    if scope.unseen:
        unseen = f"of {scope.name}: not guarded, because they do not say at their start that they are a tool's"
        return Finding("spans", WARN, unseen, "guard its tools with @spanledger.tool")
    if scope.says is Says.ARGUMENTS:
        return Finding("spans", OK, f"of {scope.name}: guarded in full; they show the call's id and arguments")
    counted = f"of {scope.name}: budgets, switches and grants hold; they show no more of a call than {scope.says.value}"
    return Finding("spans", OK, counted, "what must not run twice: guard it with @spanledger.tool")
