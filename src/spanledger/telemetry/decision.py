"""The decision trace: what the agent was after, what it thought, what it chose and why.

Rules: a workflow is one run of an agent toward a goal. It is the scope of idempotency for the calls inside and a
span `invoke_agent`. Steps and decisions are events on that span, told by the developer in words of their own, so
they are recorded although content is not; they go to the ledger as well (`trail`). Ending is idempotent, and closing a
workflow in another context than it was opened in is harmless. Being cancelled, interrupted or closed early is no error.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from spanledger import acting
from spanledger._guard import ambient, current_call, entered, put_around
from spanledger.core.call import INVOKE_AGENT, Holder
from spanledger.core.frozen import changed
from spanledger.core.occurrences import Occurrences
from spanledger.core.trail import RUN_LEASE_S
from spanledger.placing import Ambient
from spanledger.telemetry import carrying, deployment, record, semconv, trail
from spanledger.telemetry.quiet import quietly

_DECISION = {
    "name": semconv.DECISION_NAME,
    "options": semconv.DECISION_OPTIONS,
    "chosen": semconv.DECISION_CHOSEN,
    "because": semconv.DECISION_BECAUSE,
    "confidence": semconv.DECISION_CONFIDENCE,
}

# What carries a workflow to other threads, from the first one that is opened: nobody may have instrumented anything.
_carry: Callable[[], None] = lambda: None  # noqa: E731 - until somebody says what

# Of steps outside of any workflow.
_NOBODY = Ambient("")

_current: ContextVar[Workflow | None] = ContextVar("spanledger_workflow", default=None)


class Workflow:
    """One run of an agent toward a goal; use it with `with` or `async with`.

    Attributes:
        workflow_id: The scope of idempotency: retries and resumes share it.
        agent: Name of the agent.
        goal: What the run is for.
    """

    _kind = "workflow"
    # It is a span; what is open for long, and ends perhaps in another process, is none.
    _spans = True

    def __init__(self, around: Ambient, goal: str | None) -> None:
        self.workflow_id = around.workflow_id
        self.agent = around.agent
        self.goal = goal
        self._around = around
        self._span: Span = INVALID_SPAN
        self._open = False
        self._holder: Holder | None = None
        self._before: tuple[Workflow | None, Ambient | None, Context] | None = None

    @property
    def span(self) -> Span:
        """Its span while it is open."""
        return self._span

    def step(self, text: str) -> None:
        """Record a step of reasoning.

        Args:
            text: For example ``"customer is entitled to a refund"``.
        """
        _event(self._span, semconv.EVENT_STEP, {semconv.STEP_TEXT: text})
        trail.tell("step", self._span, {"text": text}, self._around)

    def decide(
        self,
        name: str,
        *,
        options: Sequence[str],
        chosen: str,
        because: str | None = None,
        confidence: float | None = None,
    ) -> None:
        """Record what the agent chose.

        Args:
            name: What was to be decided.
            options: Among what.
            chosen: What was chosen.
            because: Why.
            confidence: Between 0 and 1, where there is such a figure.
        """
        said = {"name": name, "options": list(options), "chosen": chosen, "because": because, "confidence": confidence}
        _event(self._span, semconv.EVENT_DECISION, {_DECISION[field]: value for field, value in said.items()})
        trail.tell("decision", self._span, said, self._around)

    def __enter__(self) -> Self:
        _carry()
        # Each opening is a run, and counts from its beginning.
        around = self._around = changed(self._around, counts=Occurrences())
        self._span = self._opened()
        current = trace.set_span_in_context(self._span) if self._spans else otel_context.get_current()
        above = ambient()
        self._before = _current.get(), above, otel_context.get_current()
        _put(self, around, carrying.with_workflow(current, around.workflow_id))
        self._open = True
        self._holder = Holder() if around.session_id is not None else None
        within = above.workflow_id if above is not None and above.workflow_id not in ("", around.workflow_id) else None
        trail.tell("started", self._span, {"goal": self.goal, "within": within}, around, **self._told())
        if within is not None:
            trail.tell("inner", self._span, {"workflow_id": around.workflow_id, "goal": self.goal}, above)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        above = _opened_on(self)
        if above is not None:
            above._before = self._before  # noqa: SLF001 - our own class
        elif self._before is not None and _current.get() is self:
            _put(*self._before)
        self._before = None
        if self._open:
            self._open = False
            self._end(error)

    def _opened(self) -> Span:
        around = self._around
        attributes = {
            semconv.OPERATION_NAME: INVOKE_AGENT,
            semconv.AGENT_NAME: self.agent,
            semconv.AGENT_VERSION: deployment.version(around),
            semconv.ENVIRONMENT: deployment.environment(around),
            semconv.CONVERSATION_ID: around.session_id or self.workflow_id,
            semconv.WORKFLOW_ID: self.workflow_id,
            semconv.WORKFLOW_GOAL: self.goal,
            semconv.ACTOR: around.actor,
            semconv.CALLER: carrying.caller() if ambient() is None else None,
        }
        with contextlib.suppress(Exception):
            return record.tracer().start_span(
                f"invoke_agent {self.agent}" if self.agent else "invoke_agent",
                kind=SpanKind.INTERNAL,
                attributes={name: value for name, value in attributes.items() if value is not None},
            )
        return INVALID_SPAN

    def _end(self, error: BaseException | None) -> None:
        if isinstance(error, Exception):
            record.failed(self._span, error)
        elif error is not None:
            record.interrupted(self._span, error)
        status = "done" if error is None else "failed" if isinstance(error, Exception) else "interrupted"
        self._tell_end(status, None if error is None else record.type_of(error))
        record.end(self._span)
        self._span = INVALID_SPAN

    def _tell_end(self, status: str, error: str | None) -> None:
        # From here on it gives no more signs of life.
        self._holder = None
        trail.tell("ended", self._span, {"status": status, "error": error}, self._around, **self._told())

    def _told(self) -> dict[str, Any]:
        """What the ledger is told of a run besides, where it belongs to a session."""
        around = self._around
        if around.session_id is None:
            return {}
        kind = self._kind if around.turn_id != around.run_id else "turn"
        of_session = {"id": around.session_id, "kind": kind, "turn": around.turn_id, "lease_s": RUN_LEASE_S}
        of_agent = {"agent_version": around.agent_version, "environment": around.environment}
        said = {name: value for name, value in of_agent.items() if value is not None}
        return {"session": of_session | said, "holder": self._holder}

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, tb)


def workflow(
    workflow_id: str,
    *,
    agent: str | None = None,
    goal: str | None = None,
    tenant: str | None = None,
    actor: str | None = None,
) -> Workflow:
    """Open a run of an agent toward a goal.

    Args:
        workflow_id: The scope of idempotency, for example ``"order-123"``: a run that is repeated under the same id
            does not repeat its side effects.
        agent: Name of the agent.
        goal: What the run is for, in words.
        tenant: Whose ledger it is; the configured tenant if None.
        actor: On whose behalf the agent acts.

    Raises:
        ValueError: The workflow id, or the tenant, is no text or an empty one.
    """
    if not isinstance(workflow_id, str) or not workflow_id:
        raise ValueError(f"a workflow id is a text that is not empty, and not {workflow_id!r}")
    if tenant is not None and (not isinstance(tenant, str) or not tenant):
        raise ValueError(f"a tenant is a text that is not empty, or None, and not {tenant!r}")
    outer = ambient()
    around = Ambient(
        workflow_id,
        agent=agent,
        actor=actor or (outer.actor if outer else None),
        tenant=tenant or (outer.tenant if outer else None),
        run_id=str(uuid.uuid4()),
        session_id=outer.session_id if outer else None,
        turn_id=outer.turn_id if outer else None,
        agent_version=outer.agent_version if outer and agent in (None, outer.agent) else None,
        environment=outer.environment if outer else None,
    )
    return Workflow(around, goal)


def carried_by(carry: Callable[[], None]) -> None:
    """Say what lets threads of executors have the workflow that their jobs come from."""
    global _carry  # noqa: PLW0603 - one per process
    _carry = carry


def current_workflow() -> Workflow | None:
    """Return the workflow around this code."""
    return _current.get()


def step(text: str) -> None:
    """Record a step of reasoning in the current workflow; outside of one, on the current span."""
    (_current.get() or _detached()).step(text)


def decide(
    name: str,
    *,
    options: Sequence[str],
    chosen: str,
    because: str | None = None,
    confidence: float | None = None,
) -> None:
    """Record what the agent chose in the current workflow; outside of one, on the current span."""
    around = _current.get() or _detached()
    around.decide(name, options=options, chosen=chosen, because=because, confidence=confidence)


def surroundings() -> Callable[[], AbstractContextManager[None]] | None:
    """Remember what is around this code; it is put around other code by what is returned. None: nothing is.

    The span is among it, as are the call that runs here and the delegations that it acts under and sends along.
    """
    workflow, around, call, under = _current.get(), ambient(), current_call(), acting.around()
    if around is None and call.key is None and under == acting.Acting():
        return None
    context = otel_context.get_current()

    @contextlib.contextmanager
    def within() -> Iterator[None]:
        before = _current.get(), ambient(), otel_context.get_current()
        _put(workflow, around, context)
        try:
            with acting.put(under), entered(call) if call.key is not None else contextlib.nullcontext():
                yield
        finally:
            _put(*before)

    return within


def _detached() -> Workflow:
    found = Workflow(_NOBODY, None)
    found._span = trace.get_current_span()  # noqa: SLF001 - our own class
    return found


@quietly
def _event(span: Span, name: str, attributes: dict[str, Any]) -> None:
    span.add_event(name, {key: value for key, value in attributes.items() if value is not None})


def _opened_on(below: Workflow) -> Workflow | None:
    """Find the workflow that was opened right inside another one, in this context, and is still open."""
    found = _current.get()
    while found is not None and found._before is not None:  # noqa: SLF001 - our own class
        if found._before[0] is below:  # noqa: SLF001 - our own class
            return found
        found = found._before[0]  # noqa: SLF001 - our own class
    return None


def _put(workflow: Workflow | None, around: Ambient | None, context: Context) -> None:
    _current.set(workflow)
    put_around(around)
    otel_context.attach(context)
