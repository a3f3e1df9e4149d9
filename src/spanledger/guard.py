"""What the layers above the core share: how to ask the ledger, and what runs right now.

Rules: telemetry and instrument hold a `Guard` and never learn what is behind it. What is ambient travels in
context variables, which follow tasks and copied contexts; nothing here is changed by a worker except the sum of
what it charges.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from spanledger.config import Config
from spanledger.core.call import Begun, Call, Ended, ScopeSource
from spanledger.core.money import Amount
from spanledger.core.rules import Rule, usable_call_id
from spanledger.core.steps import Asking, Steps
from spanledger.errors import CallInProgress

T = TypeVar("T")


class Drives(Protocol):
    """Carries out steps in the calling thread."""

    def drive(self, steps: Steps[T], invoke: Callable[[Begun], Ended] | None = None) -> T:
        """Run steps to their end."""
        ...


class DrivesAwaiting(Protocol):
    """Carries out steps in the running event loop."""

    async def drive(self, steps: Steps[T], invoke: Callable[[Begun], Awaitable[Ended]] | None = None) -> T:
        """Run steps to their end."""
        ...


@dataclass(frozen=True, slots=True)
class Ambient:
    """The workflow around a call.

    Attributes:
        workflow_id: The scope of idempotency.
        agent: Name of the agent.
        actor: On whose behalf it acts.
        tenant: Whose ledger it is.
    """

    workflow_id: str
    agent: str | None = None
    actor: str | None = None
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class RunningCall:
    """The guarded call that is running here.

    Attributes:
        key: Its idempotency key, to pass downstream; None where nothing is guarded.
        attempt: The fencing number of this attempt; 0 where nothing is guarded.
        name: The tool's name.
        call_id: The provider's id of the call.
        fingerprint: Of its arguments.
        opted_in: The developer asked for the guard at the tool itself.
    """

    key: str | None = None
    attempt: int = 0
    name: str = ""
    call_id: str | None = None
    fingerprint: str | None = None
    opted_in: bool = False
    _charged: list[Amount] = field(default_factory=list, repr=False)
    _outer: RunningCall | None = field(default=None, repr=False)

    def charge(self, amount: Amount) -> None:
        """Say what the call costs in the end, instead of what was reserved; several charges add up."""
        self._charged.append(amount)

    def cost(self) -> dict[str, int]:
        """What was charged, as unit → steps."""
        total: dict[str, int] = {}
        for amount in self._charged:
            total[amount.unit] = total.get(amount.unit, 0) + amount.steps
        return total

    def covers(self, asking: Asking) -> bool:
        """Tell whether a call inside this one is the same call, coming through another door.

        The arguments say so; where one door does not show them, a call id that tells calls apart. And so does the key,
        where a framework's tool is a function that the developer guarded: its defaults are filled in only there.
        """
        call, fingerprint = asking.call, asking.identity.fingerprint
        if self.name != call.name:
            return False
        if fingerprint is None or self.fingerprint is None:
            return usable_call_id(self.call_id) and self.call_id == call.call_id
        same_key = self.key == asking.identity.key and call.opted_in and not self.opted_in
        return self.fingerprint == fingerprint or same_key

    def holds(self, key: str) -> bool:
        """Tell whether this call, or one around it, has that key."""
        return self.key == key or (self._outer is not None and self._outer.holds(key))


_ambient: ContextVar[Ambient | None] = ContextVar("spanledger_ambient", default=None)
_running: ContextVar[RunningCall | None] = ContextVar("spanledger_running", default=None)


def ambient() -> Ambient | None:
    """Return the workflow around this code."""
    return _ambient.get()


def current_call() -> RunningCall:
    """Return the guarded call that is running here; outside of one, an empty one whose key is None."""
    return _running.get() or RunningCall()


@contextlib.contextmanager
def running(asking: Asking, begun: Begun) -> Iterator[RunningCall]:
    """Make a call the one that is running here."""
    call = RunningCall(
        key=begun.key,
        attempt=begun.attempt,
        name=asking.call.name,
        call_id=asking.call.call_id,
        fingerprint=asking.identity.fingerprint,
        opted_in=asking.call.opted_in,
        _outer=_running.get(),
    )
    token = _running.set(call)
    try:
        yield call
    finally:
        _reset(_running, token)


@contextlib.contextmanager
def within(workflow: Ambient) -> Iterator[Ambient]:
    """Make a workflow the one around this code."""
    token = _ambient.set(workflow)
    try:
        yield workflow
    finally:
        _reset(_ambient, token)


@dataclass(frozen=True, slots=True)
class Guard:
    """How to ask the ledger.

    Attributes:
        config: Rules and limits.
        blocking: For callers in a thread.
        awaiting: For callers in an event loop.
    """

    config: Config
    blocking: Drives
    awaiting: DrivesAwaiting

    def asking(self, call: Call, *, own: Rule | None = None, trace: tuple[str, str] | None = None) -> Asking:
        """Put together what the ledger needs to know, the workflow around the call included.

        Raises:
            Undescribable: The call cannot be identified or priced as its rule says.
            CallInProgress: The call would wait for itself.
        """
        asking = self.config.asking(_placed(call), attempt_id=str(uuid.uuid4()), own=own, trace=trace)
        outer = _running.get()
        if outer is not None and not outer.covers(asking) and outer.holds(asking.identity.key):
            raise CallInProgress(
                f"{call.name!r} calls itself with the same key and would wait for itself", key=outer.key
            )
        return asking


def decided(asking: Asking) -> bool:
    """Tell whether the ledger was asked already for this very call, by a wrapper around this one."""
    outer = _running.get()
    return outer is not None and outer.covers(asking)


def _placed(call: Call) -> Call:
    around = _ambient.get()
    if around is None:
        return call
    call = replace(
        call,
        agent=call.agent or around.agent,
        actor=call.actor or around.actor,
        tenant=call.tenant or around.tenant,
    )
    if call.workflow_id and call.workflow_source is ScopeSource.GIVEN:
        return call
    return replace(call, workflow_id=around.workflow_id, workflow_source=ScopeSource.GIVEN)


def _reset(variable: ContextVar[Any], token: Any) -> None:
    # A generator may be closed in another context than it was opened in; then there is nothing to put back.
    with contextlib.suppress(ValueError):
        variable.reset(token)
