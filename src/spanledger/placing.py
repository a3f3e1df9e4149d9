"""Which workflow a call belongs to, where nobody said so at the call.

Rules: the workflow around the code counts, then what the call itself brings, then the trace around it, and last this
process. Baggage comes from outside, and whoever sends it could have another's recorded result given back: it chooses
only where the configuration trusts it, and nothing that is said here.
"""

from __future__ import annotations

import functools
import logging
import os
import uuid
from dataclasses import field
from typing import Final, TypeGuard

from opentelemetry import baggage, trace

from spanledger.core.call import Call, ScopeSource
from spanledger.core.frozen import changed, value
from spanledger.core.occurrences import Occurrences

logger = logging.getLogger("spanledger")

FLEETING: Final = (ScopeSource.TRACE, ScopeSource.PROCESS)
BAGGAGE_CHARS_MAX: Final = 256
WORKFLOW_BAGGAGE: Final = "spanledger.workflow.id"
_ACTOR_BAGGAGE: Final = "spanledger.actor"
_TENANT_BAGGAGE: Final = "spanledger.tenant"


@value
class Ambient:
    """The workflow around a call.

    Attributes:
        workflow_id: The scope of idempotency; empty where somebody acts in no workflow, as in a request.
        agent: Name of the agent.
        actor: On whose behalf it acts.
        tenant: Whose ledger it is.
        run_id: This run of the workflow.
        session_id: The conversation it belongs to.
        turn_id: The run that is the turn of the conversation it belongs to.
        agent_version: Version of the agent; None: the configured one.
        environment: Where it runs; None: the configured one.
        counts: Which equal calls this run has made.
    """

    workflow_id: str
    agent: str | None = None
    actor: str | None = None
    tenant: str | None = None
    run_id: str | None = None
    session_id: str | None = None
    turn_id: str | None = None
    agent_version: str | None = None
    environment: str | None = None
    counts: Occurrences = field(default_factory=Occurrences, repr=False, compare=False)


def placed_in(call: Call, around: Ambient | None, *, trust_baggage: bool = False) -> Call:
    """Put a call into the workflow around it; without one, into the trace around it, else into this process."""
    if around is not None:
        agent, actor = call.agent or around.agent, call.actor or around.actor
        tenant = call.tenant or around.tenant
        if around.workflow_id:
            given = call.workflow_id and call.workflow_source is ScopeSource.GIVEN
            return changed(
                call,
                agent=agent,
                actor=actor,
                tenant=tenant,
                run_id=None if given else around.run_id,
                workflow_id=call.workflow_id if given else around.workflow_id,
                workflow_source=ScopeSource.GIVEN,
            )
        call = changed(call, agent=agent, actor=actor, tenant=tenant)
    if trust_baggage:
        call = changed(call, actor=call.actor or said(_ACTOR_BAGGAGE), tenant=call.tenant or said(_TENANT_BAGGAGE))
    if call.workflow_id:
        return call
    if trust_baggage and (workflow_id := said(WORKFLOW_BAGGAGE)) is not None:
        return changed(call, workflow_id=workflow_id, workflow_source=ScopeSource.BAGGAGE)
    # The call's own span is not current yet: a trace that begins with it would be a scope of one call.
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        return changed(call, workflow_id=trace.format_trace_id(context.trace_id), workflow_source=ScopeSource.TRACE)
    return changed(call, workflow_id=_process_scope(os.getpid()), workflow_source=ScopeSource.PROCESS)


def said(name: str) -> str | None:
    """Return what the baggage around this code says; None where it says nothing, or nothing that can be."""
    text = baggage.get_baggage(name)
    return text if is_fit(text) else None


def is_fit(value: object) -> TypeGuard[str]:
    """Tell whether a value is text that baggage may carry."""
    return isinstance(value, str) and 0 < len(value) <= BAGGAGE_CHARS_MAX and value.isprintable()


@functools.lru_cache(maxsize=1)
def _process_scope(_pid: int) -> str:
    return f"process:{uuid.uuid4()}"


@functools.lru_cache(maxsize=1024)
def warn_of_scope(name: str, source: ScopeSource) -> None:
    """Once per tool: say that its calls are told apart by something that the next run does not share."""
    logger.warning(
        "calls of %s are protected within one %s only: give the work an id, by workflow(…) or SPANLEDGER_WORKFLOW_ID",
        name,
        source,
    )
