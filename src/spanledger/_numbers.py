"""Which of the equal calls of an execution a call is, where its rule identifies it by that.

Rules: an execution is a run of a workflow; without one, a trace; where a trace says nothing, the scope in this process.
It is told by where the code is, so a workflow that is opened anew begins at 1, in another process as well. What a call
makes inside is asked about only while that one runs, and a replay runs nothing. So inside a call that is identified by
more than a provider's id, equal calls are counted from 1 in each attempt, and are its own. Inside another one they are
counted with those of the run, and another attempt of it, by the same id, is given the same numbers again. The same call
through another door has the number of the one around.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

from opentelemetry import trace

from spanledger._inside import Inside
from spanledger.core.asking import Asking
from spanledger.core.call import Call, ScopeSource
from spanledger.core.frozen import changed
from spanledger.core.locks import ProcessLock
from spanledger.core.occurrences import Counted, Occurrence, Occurrences
from spanledger.core.rules import usable_call_id

EXECUTIONS_MAX: Final = 10_000
_BY_ID: Final = ("call_id", "none")
# A process may do their work in many traces, one after the other.
_OF_PROCESS: Final = (ScopeSource.ENVIRONMENT, ScopeSource.PROCESS)

_executions: OrderedDict[str, Occurrences] = OrderedDict()
_lock = ProcessLock()


class Around(Protocol):
    """A call that runs around another one: what matters of it here."""

    @property
    def key(self) -> str | None:
        """Its key."""
        ...

    @property
    def source(self) -> str:
        """Which rule of identity made it."""
        ...

    @property
    def occurrence(self) -> Occurrence | None:
        """Which of equal calls it is, where that is among what the key was made of, here."""
        ...

    @property
    def run(self) -> Occurrences | None:
        """What the run that makes it has counted."""
        ...

    @property
    def inside(self) -> Inside:
        """What happens inside."""
        ...

    @property
    def outer(self) -> Around | None:
        """The call around that one."""
        ...

    def covers(self, asking: Asking) -> bool:
        """Tell whether a call inside is the same call through another door."""
        ...


def numbered(asking: Asking, around: Around | None, run: Occurrences | None, secret: bytes | None) -> Asking:
    """Number a call that is identified by its number.

    Args:
        asking: The call, as if it were the first.
        around: The call that is running here.
        run: What the run around has counted; None: there is none.
        secret: Keys the hashes, where one is configured.

    Raises:
        Undescribable: The execution has numbered too many calls.
    """
    if around is not None and not around.inside.over and around.source == "occurrence" and around.covers(asking):
        if around.occurrence is not None:
            return asking.numbered(around.occurrence, secret)
        # It was numbered in the process that it comes from.
        return changed(asking, identity=changed(asking.identity, key=str(around.key)))
    call = asking.call
    # A workflow that is named at the call itself is the same inside whatever other call.
    elsewhere = call.workflow_source is ScopeSource.GIVEN and call.run_id is None
    within, counted = _counted(asking, None if elsewhere else around, run)
    return changed(asking.numbered(Occurrence(counted.number, within), secret), counted=counted)


def _counted(asking: Asking, around: Around | None, run: Occurrences | None) -> tuple[str, Counted]:
    call, key = asking.call, asking.identity.key
    call_id: tuple[str, ...] | None = (str(call.call_id),) if usable_call_id(call.call_id) else None
    counted: Counted | None = None
    while around is not None and around.run is run:
        if around.inside.over or around.source == "none":
            around = around.outer
            continue
        counted = around.inside.counts().take(key, call_id, counted)
        if around.source not in _BY_ID:
            return str(around.key), counted
        call_id = (str(around.key), str(counted.number))
        around = around.outer
    return "", (_execution(call) if run is None else run).take(key, call_id, counted)


def _execution(call: Call) -> Occurrences:
    """What was counted where no run is around; that of the oldest is forgotten."""
    context = trace.get_current_span().get_span_context()
    traced = context.is_valid and call.workflow_source not in _OF_PROCESS
    name = trace.format_trace_id(context.trace_id) if traced else f"{call.tenant} {call.workflow_id}"
    with _lock:
        found = _executions.setdefault(name, Occurrences())
        _executions.move_to_end(name)
        if len(_executions) > EXECUTIONS_MAX:
            _executions.popitem(last=False)
    return found
