"""The decision trace on its way to the ledger, which this layer does not know.

Rules: entries go to whoever is connected. A process is often connected by its first guarded call, which comes after
the agent has said what it is after: what an open workflow said before waits for that, bounded, and is gone when the
workflow ends. Telling costs the caller an append to a list; telling that fails is logged and costs the entry. An entry
says where it is in the trace, so that one leads to the other.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import Span

from spanledger._guard import ambient
from spanledger.core.locks import ProcessLock
from spanledger.core.trail import Entry, Tells
from spanledger.placing import Ambient
from spanledger.telemetry import deployment, semconv
from spanledger.telemetry.quiet import quietly

# Of all workflows that are open while nobody is connected.
EARLY_MAX: Final = 1000

_sink: Tells | None = None
_maker: Callable[[], object] | None = None
_lock = ProcessLock()
# What waits for somebody to be connected, and when it happened by this process's clock.
_early: list[tuple[Entry, float]] = []
# How many found no room there, by the run of the workflow that is open.
_early_lost: Counter[str | None] = Counter()


def connect(sink: Tells) -> None:
    """Tell `sink` from now on, and what open workflows have said before."""
    global _sink, _early, _early_lost  # noqa: PLW0603 - one per process, as there is one engine
    with _lock:
        _sink = sink
        waiting, _early, lost, _early_lost = _early, [], _early_lost.total(), Counter()
    for entry, happened_s in waiting:
        sink.tell(entry, happened_s)
    for _ in range(lost):
        sink.lose(f"more than {EARLY_MAX} were told before anything was guarded")


def disconnect(sink: Tells) -> None:
    """Tell `sink` no more."""
    global _sink  # noqa: PLW0603 - see connect
    if _sink is sink:
        _sink = None


def made_by(maker: Callable[[], object]) -> None:
    """Say how this process gets connected where somebody needs it before anything was guarded."""
    global _maker  # noqa: PLW0603 - see connect
    _maker = maker


@quietly
def need() -> None:
    """Get connected now: what comes is to be kept, although nothing was guarded yet."""
    if _sink is None and _maker is not None:
        _maker()


def conversation() -> dict[str, str]:
    """What groups spans by what is around this code: the session, and the version of the agent; nothing outside."""
    around = ambient()
    if around is None:
        return {}
    said = {semconv.CONVERSATION_ID: around.session_id} if around.session_id else {}
    version = deployment.version(around) if around.agent else None
    return said if version is None else said | {semconv.AGENT_VERSION: version}


def lose(why: str) -> None:
    """Count an entry that could not even be told, and log it."""
    sink = _sink
    if sink is not None:
        sink.lose(why)


@quietly
def tell(event: str, span: Span, detail: dict[str, Any], around: Ambient | None = None, **more: Any) -> None:
    """Tell one entry.

    Args:
        event: What happened.
        span: Where.
        detail: What there is to say.
        around: Whose it is; None: the workflow around this code.
        **more: Fields of `Entry`.
    """
    around = around or ambient()
    if _sink is None and (around is None or around.run_id is None):
        return
    if around is not None:
        whose = {"tenant": around.tenant, "agent": around.agent, "actor": around.actor, "run_id": around.run_id}
        more = whose | {"workflow_id": None if more.get("key") else around.workflow_id} | more
    context = span.get_span_context()
    if context.is_valid:
        more = {
            "trace_id": trace.format_trace_id(context.trace_id),
            "span_id": trace.format_span_id(context.span_id),
        } | more
    entry = Entry(event, detail=detail, **more)
    sink = _sink or _kept_for_later(entry)
    if sink is not None:
        sink.tell(entry)


def _kept_for_later(entry: Entry) -> Tells | None:
    """Keep an entry while its workflow is open; gives who is connected, if somebody is meanwhile."""
    with _lock:
        if _sink is not None:
            return _sink
        if entry.event == "ended":
            _early[:] = [(early, at) for early, at in _early if early.run_id != entry.run_id]
            _early_lost.pop(entry.run_id, None)
        elif len(_early) < EARLY_MAX:
            _early.append((entry, time.monotonic()))
        else:
            _early_lost[entry.run_id] += 1
        return None
