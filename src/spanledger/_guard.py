"""What the layers above the core share: how to ask the ledger, and what runs right now.

Rules: telemetry and instrument hold a `Guard` and never learn what is behind it. What is ambient travels in
context variables, which follow tasks and copied contexts; nothing here is changed by a worker except the sum of what
it charges. A call inside another is one of its own, with two exceptions: the same one through another door is stood
for, and one that is passed on to a server, where it has a shorter name, asks for itself, but what the call around
holds of a budget is held for both. Either way once: what is made again in there counts again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, TypeVar

from spanledger import acting
from spanledger._inside import Inside
from spanledger._numbers import numbered
from spanledger.config import Config
from spanledger.core.asking import Asking, Steps, Traced
from spanledger.core.call import EXECUTE_TOOL, Begun, Call, Ended, Outcome
from spanledger.core.frozen import changed, value
from spanledger.core.ids import new_id
from spanledger.core.keys import passes_on
from spanledger.core.money import AMOUNT_MAX, Amount, Calls, Money, Tokens
from spanledger.core.occurrences import Occurrence, Occurrences
from spanledger.core.outcomes import is_ambiguous
from spanledger.core.rules import Rule, Terms, reserved_amounts, usable_call_id
from spanledger.errors import CallInProgress, NotAuthorized, Undescribable
from spanledger.placing import FLEETING, Ambient, placed_in, warn_of_scope

logger = logging.getLogger("spanledger")


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


class DrivesLater(Protocol):
    """Carries out the last steps of a call whose caller must not be blocked."""

    def drive(self, begun: Begun, steps: Steps[Outcome]) -> None:
        """Run the last steps of a call to their end, soon; nothing is raised."""
        ...

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was given so far is carried out; False where it is not after so long."""
        ...


@value
class RunningCall:
    """The guarded call that is running here.

    Attributes:
        key: Its idempotency key, to pass downstream; None where nothing is guarded.
        attempt: The fencing number of this attempt; 0 where nothing is guarded.
        attempt_id: The attempt's own id; None where the ledger knows of none.
        name: The tool's name.
        call_id: The provider's id of the call.
        fingerprint: Of its arguments.
        opted_in: The developer asked for the guard at the tool itself.
        source: Which rule of identity made the key.
        occurrence: Which of equal calls it is, where that is among what the key was made of, here.
        run: What the run that makes it has counted; None: no workflow is around.
        inside: What happens inside.
    """

    key: str | None = None
    attempt: int = 0
    attempt_id: str | None = None
    name: str = ""
    call_id: str | None = None
    fingerprint: str | None = None
    opted_in: bool = False
    source: str = "none"
    occurrence: Occurrence | None = None
    run: Occurrences | None = field(default=None, repr=False, compare=False)
    inside: Inside = field(default_factory=Inside, repr=False, compare=False)
    _charged: list[Amount] = field(default_factory=list, repr=False)
    _reserved: Mapping[str, int] = field(default_factory=dict, repr=False)
    _lent: Mapping[str, int] = field(default_factory=dict, repr=False)
    outer: RunningCall | None = field(default=None, repr=False)

    def charge(self, amount: Amount) -> None:
        """Say what the call costs in the end, instead of what was reserved; several charges add up."""
        if isinstance(amount, Money | Tokens | Calls):
            self._charged.append(amount)
        else:
            # The side effect may have happened: a mistyped price must not make a failure of it.
            logger.error("%s was charged %r, which is no amount; it costs what was reserved", self.name, amount)

    def cost(self, *, succeeded: bool) -> dict[str, int]:
        """What the call costs other than what it reserved, as unit → steps."""
        inside = self.inside
        if not (self._charged or self._lent or inside.booked or inside.passed_on):
            return {}
        spent = self._lent if succeeded else self._reserved if inside.passed_on else {}
        total = {**spent, **inside.booked}
        charged: dict[str, int] = {}
        for amount in self._charged:
            charged[amount.unit] = min(charged.get(amount.unit, 0) + amount.steps, AMOUNT_MAX)  # more is not counted
        return total | charged

    def was_passed_on(self, outcome: Outcome) -> None:
        """Hear what became of the call that this one was passed on as, for which it holds what both may spend."""
        inside = self.inside
        if outcome.replayed:
            # That was paid for when it ran, by whichever call was around it then.
            inside.booked = {**inside.booked, **dict.fromkeys(self._reserved, 0)}
        elif outcome.recorded == "succeeded":
            inside.passed_on = True
        elif outcome.recorded != "failed":
            # It may have taken effect: what is held for both is not given back, if this call fails.
            inside.doubtful = True

    def covers(self, asking: Asking) -> bool:
        """Tell whether a call inside this one is the same call, coming through another door.

        The arguments say so; where one door does not show them, a call id that tells calls apart. And so does the key,
        where a framework's tool is a function that the developer guarded: its defaults are filled in only there. If the
        framework shows less of that function, its name has to do.
        """
        call, fingerprint = asking.call, asking.identity.fingerprint
        if self.name != call.name:
            return False
        if fingerprint is None or self.fingerprint is None:
            same_id = usable_call_id(self.call_id) and self.call_id == call.call_id
            return same_id or (self.fingerprint is None and call.opted_in and not self.opted_in)
        same_key = self.key == asking.identity.key and call.opted_in and not self.opted_in
        return self.fingerprint == fingerprint or same_key

    def holds(self, key: str) -> bool:
        """Tell whether this call, or one around it, runs and has that key."""
        return (self.key == key and not self.inside.over) or (self.outer is not None and self.outer.holds(key))


_ambient: ContextVar[Ambient | None] = ContextVar("spanledger_ambient", default=None)
_running: ContextVar[RunningCall | None] = ContextVar("spanledger_running", default=None)


# No functions around these, for they are asked at every call.
ambient: Final[Callable[[], Ambient | None]] = _ambient.get
"""Return the workflow around this code."""


def current_call() -> RunningCall:
    """Return the guarded call that is running here; outside of one, an empty one whose key is None."""
    return _running.get() or RunningCall()


def _run() -> Occurrences | None:
    around = _ambient.get()
    return None if around is None or not around.workflow_id else around.counts


def made_running(asking: Asking, begun: Begun) -> RunningCall:
    """Make the running call of an answer."""
    return RunningCall(
        key=begun.key,
        attempt=begun.attempt,
        attempt_id=None if begun.unguarded else begun.attempt_id,
        name=asking.call.name,
        call_id=asking.call.call_id,
        fingerprint=asking.identity.fingerprint,
        opted_in=asking.call.opted_in,
        source=asking.identity.source,
        occurrence=asking.call.occurrence if asking.identity.source == "occurrence" else None,
        run=_run(),
        _reserved=begun.reserved,
        _lent=asking.lent,
        outer=_running.get(),
    )


@contextlib.contextmanager
def entered(call: RunningCall) -> Iterator[RunningCall]:
    """Make a call the one that is running here."""
    token = _running.set(call)
    try:
        yield call
    finally:
        _reset(_running, token)


@contextlib.contextmanager
def running(asking: Asking, begun: Begun) -> Iterator[RunningCall]:
    """Make the call of an answer the one that is running here, until it is over."""
    with over_after(made_running(asking, begun)) as call:
        yield call


@contextlib.contextmanager
def over_after(call: RunningCall) -> Iterator[RunningCall]:
    """Make a call the one that is running here, until it is over."""
    with entered(call):
        try:
            yield call
        finally:
            call.inside.over = True


@contextlib.contextmanager
def stood_for(inside: Inside, terms: Terms) -> Iterator[None]:
    """Run what the call around stands for; if it fails and may have taken effect, that call is to know."""
    try:
        yield
    except BaseException as error:
        inside.doubtful = inside.doubtful or is_ambiguous(error, terms)
        raise
    finally:
        inside.leave()


def put_around(workflow: Ambient | None) -> None:
    """Make a workflow, or none, the one around this code."""
    _ambient.set(workflow)


@dataclass(frozen=True, slots=True)
class Guard:
    """How to ask the ledger.

    Attributes:
        config: Rules and limits.
        blocking: For callers in a thread.
        awaiting: For callers in an event loop.
        later: For the end of calls whose caller can neither await nor be blocked.
        is_there: Tells whether the ledger can be asked without starting a private server, which only guarded calls do.
    """

    config: Config
    blocking: Drives
    awaiting: DrivesAwaiting
    later: DrivesLater
    is_there: Callable[[], bool] = lambda: True

    def asking(self, call: Call, *, own: Rule | None = None, span: Traced | None = None) -> Asking:
        """Put together what the ledger needs to know, the workflow around the call included.

        Raises:
            Undescribable: The call cannot be identified or priced as its rule says.
            CallInProgress: The call would wait for itself.
            NotAuthorized: The token of the delegation around it cannot be read, or is for another tenant.
        """
        around = placed_in(call, _ambient.get(), trust_baggage=self.config.trust_baggage)
        token = acting.token()
        asking = self._described(around if around.delegation == token else changed(around, delegation=token), own, span)
        placed = asking.call
        if asking.terms.guarded and placed.workflow_source in FLEETING and placed.operation == EXECUTE_TOOL:
            warn_of_scope(placed.name, placed.workflow_source)
        outer = _running.get()
        waits = outer is not None and not outer.covers(asking) and outer.holds(asking.identity.key)
        if outer is not None and waits and not asking.shadow:
            asking.not_done()
            raise CallInProgress(
                f"{call.name!r} calls itself with the same key and would wait for itself", key=outer.key
            )
        return asking

    def _described(self, call: Call, own: Rule | None, span: Traced | None) -> Asking:
        attempt_id = new_id()
        try:
            asking = self.config.asking(call, attempt_id=attempt_id, own=own, trace=span)
            if asking.identity.source != "occurrence":
                return asking
            return numbered(asking, _running.get(), _run(), self._secret)
        except (Undescribable, NotAuthorized) as error:
            named = isinstance(error, NotAuthorized) or call.opted_in or self.covers(call)
            if named and self.config.mode != "shadow":
                raise
            if named:
                logger.warning("shadow: %s runs; enforced, it would be refused: %s", call.name, error)
            else:
                logger.info("the ledger is asked about %s by its name alone: %s", call.name, error)
            # What the ledger itself controls goes by the name; nobody gets past it with an odd id or argument.
            bare = changed(call, arguments=None, key=None, cost=None, call_id=None, opted_in=False, delegation=None)
            config = replace(self.config, rules=())
            try:
                asking = config.asking(bare, attempt_id=attempt_id, trace=span)
            except Undescribable:
                bare = changed(bare, workflow_id=None, turn=None)
                asking = config.asking(bare, attempt_id=attempt_id, trace=span)
            # Its result and its error are no odder than others, and say what is redacted.
            return changed(asking, content=self.config.content(call, own))

    @property
    def _secret(self) -> bytes | None:
        return None if self.config.secret is None else self.config.secret.encode()

    def covers(self, call: Call) -> bool:
        """Tell whether the ledger has to be asked about a call that is neither a tool's nor opted in.

        Under a delegation it has to be: whether that is in force only the ledger knows.
        """
        config = self.config
        if acting.around().under is not None:
            return True
        return (config.governs or call.opted_in) and config.covers(call)

    def sends(self, call: Call) -> bool:
        """Tell whether a call is how the one that runs here reaches its server, however often: that was decided.

        Nothing but the name is shown on the way; two calls of one name, the one around the other, are taken for one.
        """
        outer = _running.get()
        on_its_way = call.sent and call.arguments is None
        return on_its_way and outer is not None and not outer.inside.over and outer.name == call.name

    def left(self, asking: Asking) -> Asking | Inside:
        """Say what is left to ask inside a call that may have asked already.

        A framework's wrapper goes by the provider's call id unless a rule says more. It does not stand for the guard
        that the developer put on the function; but what the rules reserve, it has reserved for both.

        Returns:
            What to ask; or the inside of the call around, which stands for this one until it is told to `leave`.

        Raises:
            CallInProgress: The call around is the same one and has stood for it before: this is a retry inside.
        """
        outer = _running.get()
        if outer is None or outer.inside.over:
            return asking
        if not outer.covers(asking):
            return self._by_another_name(outer, asking)
        if asking.call.opted_in and outer.key != asking.identity.key:
            if not outer.inside.stand_for():
                return asking
            # It asks for itself. What is lent is lent once.
            outer.inside.leave()
            lent = reserved_amounts(asking.call, self.config.terms(asking.call))
            return changed(asking, reserve={**asking.reserve, **dict.fromkeys(lent, 0)}, lent=lent)
        if outer.inside.stand_for():
            return outer.inside
        if asking.shadow:
            return asking
        outer.inside.doubtful = True
        raise CallInProgress(
            f"{asking.call.name!r} was made again inside itself; what became of the first time is not known here",
            key=outer.key,
        )

    def _by_another_name(self, outer: RunningCall, asking: Asking) -> Asking:
        """Say of a call that passes the one around on to a server that it is that one, the first time it does.

        It asks for itself all the same: rules and budgets may know it by this name alone.
        """
        if outer.key is None or outer.attempt_id is None or asking.call.opted_in:
            return asking
        passed_on = passes_on(outer.name, outer.fingerprint, asking.call, asking.identity, self._secret)
        if not passed_on or not outer.inside.stand_for():
            return asking
        outer.inside.leave()
        return replace(asking, alias_of={"key": outer.key, "attempt_id": outer.attempt_id})


def tell_outer(asking: Asking, outcome: Outcome) -> None:
    """Say to the call around what the one inside has booked for both."""
    outer = _running.get()
    if outer is None:
        return
    if asking.alias_of is not None:
        outer.was_passed_on(outcome)
    if not asking.lent:
        return
    if outcome.replayed or outcome.recorded == "succeeded":
        outer.inside.booked = {**outer.inside.booked, **dict.fromkeys(asking.lent, 0)}
    elif outcome.recorded != "failed":
        # It may have been spent inside, where nothing is held: so it stays spent here.
        outer.inside.booked = {**outer.inside.booked, **asking.lent}


def _reset(variable: ContextVar[Any], token: Any) -> None:
    # A generator may be closed in another context than it was opened in; then there is nothing to put back.
    with contextlib.suppress(ValueError):
        variable.reset(token)
