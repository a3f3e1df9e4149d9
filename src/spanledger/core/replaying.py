"""What the ledger recorded of a call, made a call again; and what came of it under another configuration.

Rules: pure. What was not recorded is not guessed. Arguments count as known only where their fingerprint says that they
are complete; else calls are told apart by that fingerprint, and whatever has to look into them cannot be judged. What a
call reserves is known where a rule says so, or a budget took note of it. Whether the developer had opted in is not in
the ledger: a tool's call counts as opted in where it was identified by more than a provider's id and has none. What ran
before the moment from which calls are judged is judged by nobody: it stands as it was recorded.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from spanledger.core.approvals import Over
from spanledger.core.asking import Asking
from spanledger.core.call import EXECUTE_TOOL, Call, Resource, ScopeSource, Verdict
from spanledger.core.keys import identify
from spanledger.core.money import CALLS, TOKENS
from spanledger.core.rules import terms_for
from spanledger.core.values import decode
from spanledger.errors import Undescribable

UNJUDGED: Final = "cannot be judged, arguments not kept"
UNDELEGATED: Final = "cannot be judged, the delegation that it acted under was pruned"
# What bearers of delegations show in the copy: what they had shown is not in the ledger.
PROOF: Final = "recorded"
# An attempt that still holds what it reserved.
_HOLDS: Final = ("in_flight", "unknown", "reopened")

# States of an attempt that did not run: refused, given a recorded result, or waiting for a person who did not say yes,
# or whose yes came later.
_NOT_RUN: Final = ("refused", "pending", "approved", "denied", "expired", "replayed")
_AS_RECORDED: Final = (
    "attempt_id", "attempt", "attempts", "workflow_id", "key_source", "fingerprint", "started_at", "ended_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recorded:
    """One attempt at a call, as the ledger wrote it down; the fields are those of `spanledger_v1.recorded`."""

    key: str
    attempt_id: str
    attempt: int
    state: str
    tool: str
    operation: str
    workflow_id: str
    key_source: str
    fingerprint: str | None
    call_id: str | None
    agent: str | None
    actor: str | None
    arguments: str | None
    started_at: dt.datetime
    ended_at: dt.datetime | None
    lease_until: dt.datetime | None
    cost: Mapping[str, int]
    reserved: Mapping[str, int]
    trace_id: str | None = None
    span_id: str | None = None
    delegation: str | None = None
    attempts: int = 0

    @property
    def ran(self) -> bool:
        """It was allowed to run."""
        return self.state not in _NOT_RUN and (self.state != "cancelled" or self.attempt > 0)

    @property
    def spent(self) -> dict[str, int]:
        """Unit → steps that it cost, or still holds."""
        if not self.ran or self.state in ("failed", "cancelled", "reopened"):
            return {}
        return {**self.reserved, **self.cost}


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of a recorded attempt.

    Attributes:
        recorded: The attempt.
        verdict: What the ledger would have answered; None where that cannot be said.
        reason: Why, in words.
        amounts: Unit → steps that the attempt cost, or would have.
    """

    recorded: Recorded
    verdict: str | None
    reason: str | None = None
    amounts: Mapping[str, int] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """``"same"``, ``"unjudged"``; where it ran ``"refused"``, ``"replayed"``, ``"held"``; else ``"allowed"``."""
        if self.verdict is None:
            return "unjudged"
        if self.recorded.ran == (self.verdict == Verdict.RUN):
            return "same"
        if self.verdict == Verdict.RUN:
            return "allowed"
        named = {Verdict.REPLAY.value: "replayed", Verdict.AWAITING_APPROVAL.value: "held"}
        return named.get(self.verdict, "refused")


@dataclass(frozen=True, slots=True)
class Carried:
    """What budgets hold at the moment from which calls are judged, of what ran before it.

    Attributes:
        since: As far back as they reach; None where that is everything.
        attempts: How many that ran are counted.
        unpriced: How many of them nobody knows the price of: in money they count nothing.
    """

    since: dt.datetime | None = None
    attempts: int = 0
    unpriced: int = 0


@dataclass(frozen=True, slots=True)
class Remade:
    """A recorded attempt as a question again.

    Attributes:
        recorded: The attempt.
        asking: What the ledger is asked.
        why_not: Why its answer says nothing about the call; None where it does.
        refused: It would not even have been asked about: why.
    """

    recorded: Recorded
    asking: Asking
    why_not: str | None = None
    refused: str | None = None

    @property
    def item(self) -> dict[str, Any]:
        """The item for `begin`: the lease holds as long as the attempt did, because signs of life are not recorded."""
        item = self.asking.item() | {"arguments": None}
        until = self.recorded.lease_until if self.recorded.state == "in_flight" else self.recorded.ended_at
        if until is not None:
            lived_s = (until - self.recorded.started_at).total_seconds()
            item["lease_s"] = lived_s if self.recorded.state == "in_flight" else max(item["lease_s"], lived_s + 1)
        if self.recorded.delegation is not None:
            item["delegation"] = {"id": self.recorded.delegation, "proof": PROOF}
        return item

    @property
    def amounts(self) -> dict[str, int]:
        """Unit → steps that it cost; where that was not recorded, what it would have reserved."""
        if self.recorded.ran and self.recorded.state == "failed":
            return {CALLS: 1}
        return self._known_by(self.recorded.spent)

    def _known_by(self, known: Mapping[str, int]) -> dict[str, int]:
        guessed = dict(self.asking.reserve)
        if any(_is_money(unit) for unit in known):
            guessed = {unit: steps for unit, steps in guessed.items() if not _is_money(unit)}
        return {unit: steps for unit, steps in (guessed | dict(known) | {CALLS: 1}).items() if steps}

    def carried(self, since: dt.datetime) -> dict[str, Any]:
        """The attempt as it stood at a moment after it began, for the budgets that count it.

        Keys: ``item``, what it was about and had reserved; ``state``; ``holds``, whether its amounts are held;
        ``known``, whether its key says something to the next of the same; ``asks``, whether that waits for a person;
        ``unpriced``, only its arguments say what it cost, and they were not kept; and what the ledger's row of a call
        says besides.
        """
        recorded = self.recorded
        never_ends = recorded.state in ("unknown", "refused")
        ended = never_ends if recorded.ended_at is None else recorded.ended_at <= since
        state = recorded.state if ended else "in_flight" if recorded.ran else "pending"
        lease_until = recorded.ended_at + dt.timedelta(seconds=1) if recorded.ended_at else recorded.lease_until
        return {
            "key": self.asking.identity.key,
            "item": self.item | {"reserve": self._known_by(recorded.reserved)},
            "cost": dict(recorded.cost),
            "state": state,
            "holds": state in _HOLDS,
            "known": ended,
            "asks": state == "pending",
            "unpriced": self.why_not is not None and not any(map(_is_money, {**recorded.cost, **recorded.reserved})),
            "lease_until": lease_until if state == "in_flight" else None,
            **{name: getattr(recorded, name) for name in _AS_RECORDED},
        }


def remade(
    recorded: Recorded, ask: Callable[[Call], Asking], bare: Callable[[Call], Asking], secret: bytes | None
) -> Remade:
    """Make a question of a recorded attempt.

    Args:
        recorded: The attempt.
        ask: Describes a call under the new configuration, as `Config.asking` does.
        bare: Describes a call of which nothing is known but its name.
        secret: Keys the fingerprints.
    """
    call, complete = _call_of(recorded, secret)
    nothing_known = replace(call, arguments=None, call_id=None, opted_in=False)
    try:
        asking = ask(call)
    except Undescribable as error:
        if complete:
            return Remade(recorded, _reserving(bare(nothing_known), recorded), refused=str(error))
        return Remade(recorded, _reserving(bare(nothing_known), recorded), why_not=UNJUDGED)
    asking = _reserving(asking, recorded)
    terms = asking.terms
    looks_inside = callable(terms.reserve) or not isinstance(terms.approval, bool | Over)
    if not complete and looks_inside and call.operation == EXECUTE_TOOL:
        return Remade(recorded, _reserving(bare(nothing_known), recorded), why_not=UNJUDGED)
    return Remade(recorded, asking)


def _call_of(recorded: Recorded, secret: bytes | None) -> tuple[Call, bool]:
    """Return the call, and whether its arguments are all that it was made with."""
    scope, turn, actor = _narrowed(recorded.workflow_id)
    call = Call(
        name=recorded.tool,
        operation=recorded.operation,
        call_id=recorded.call_id,
        workflow_id=scope,
        workflow_source=ScopeSource.GIVEN if scope == recorded.workflow_id else ScopeSource.FRAMEWORK,
        turn=turn,
        agent=recorded.agent,
        actor=recorded.actor or actor,
        # A key of the caller's own is not in the ledger, but what was made of it is.
        key=recorded.key if recorded.key_source == "explicit" else None,
        resource=Resource("recorded", "key", recorded.key) if recorded.key_source == "resource" else None,
        opted_in=recorded.key_source not in ("call_id", "none") and not recorded.call_id,
    )
    if recorded.fingerprint is None:
        return call, recorded.state != "replayed"  # it never showed any, or nobody took note of them
    if recorded.arguments is not None:
        try:
            known = replace(call, arguments=decode(json.loads(recorded.arguments)))
            if _fingerprint(known, secret) == recorded.fingerprint:
                return known, True
        except (ValueError, TypeError, ArithmeticError):
            pass
    return replace(call, arguments={"fingerprint": recorded.fingerprint}), False


def _fingerprint(call: Call, secret: bytes | None) -> str | None:
    bare = replace(call, key="-", resource=None)
    try:
        return identify(bare, terms_for(bare, ()), tenant="-", nonce="-", secret=secret).fingerprint
    except Undescribable:
        return None


def _narrowed(workflow_id: str) -> tuple[str, str | None, str | None]:
    """Take a derived scope apart: conversation, turn, actor."""
    try:
        parts = json.loads(workflow_id)
    except ValueError:
        return workflow_id, None, None
    if isinstance(parts, list) and len(parts) == 3 and isinstance(parts[0], str):  # noqa: PLR2004 - as `scope_of` made it
        return parts[0], parts[1], parts[2]
    return workflow_id, None, None


def _reserving(asking: Asking, recorded: Recorded) -> Asking:
    """Where no rule says what to reserve, it is what was reserved, else what it cost."""
    if asking.terms.reserve is not None and (
        asking.call.operation == EXECUTE_TOOL or not callable(asking.terms.reserve)
    ):
        return asking
    return replace(asking, reserve={CALLS: 1, **recorded.cost, **recorded.reserved})


def _is_money(unit: str) -> bool:
    return unit not in (CALLS, TOKENS)
