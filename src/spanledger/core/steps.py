"""The life of one call, written once for sync and async.

Rules: these generators know no clock, no socket and no span. They yield what has to be done and are sent what
came of it; `spanledger.ledger._drivers` carries the steps out, blocking or awaiting. All time is the
database's, taken from its answers.

    admitted   asks until there is a verdict: run or replay come back, everything else is raised
    guarded    asks, runs one function, and tells the ledger how it ended (`settling`)

Every function of the ledger may be asked again under the same attempt id and gives the same answer, so a
driver repeats what was lost on the way. If the caller is interrupted before the function was invoked, the
claim is given back. Who waits says so to the ledger first and asks once more, so that no change is missed.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from spanledger.core.approvals import Approval
from spanledger.core.asking import Ask, Asking, Invoke, Keep, Listen, Look, Steps, Wait, is_known
from spanledger.core.call import Begun, Codec, Ended, Outcome, Resolution, Verdict
from spanledger.core.money import amount_of
from spanledger.core.obliging import answered, asking_again, obliged
from spanledger.core.outcomes import storable
from spanledger.core.payload import opened
from spanledger.core.refusals import refusal
from spanledger.core.settling import finished, found_text
from spanledger.errors import ConfigError, LedgerUnavailable, ResultNotKept

logger = logging.getLogger("spanledger.core")

RESOLUTIONS = ("succeeded", "failed", "retry")
WAITS = (Verdict.IN_PROGRESS, Verdict.AWAITING_APPROVAL)
# What the ledger remembers of a call whose begin it has not seen yet, and which is not to be made any more.
_KNOWN_BY = (
    "key", "attempt_id", "tool", "operation", "workflow_id", "key_source", "fingerprint", "call_id", "agent", "actor",
    "rule", "rule_version", "trace_id", "span_id", "run_id",
)  # fmt: skip


def admitted(asking: Asking) -> Steps[Begun]:
    """Ask until the call may run or is replayed.

    Returns:
        A `Begun` whose verdict is run or replay.

    Raises:
        SpanledgerError: Every other verdict, as the error of its name.
    """
    steps = _shadowed(asking) if asking.shadow else _enforced(asking)
    return steps if asking.counted is None else _counted(asking, steps)


def _counted(asking: Asking, steps: Steps[Begun]) -> Steps[Begun]:
    try:
        return (yield from steps)
    except BaseException:
        asking.not_done()
        raise


def _enforced(asking: Asking) -> Steps[Begun]:
    deadline_s: float | None = None
    wait_s: float | None = None
    probed: Resolution | None = None
    waiter: Any = None
    asked = False
    while True:
        # Once the ledger has answered, what it said holds: that somebody runs this call, or has to allow it.
        unguarded = deadline_s is None and asking.may_run_unguarded()
        try:
            asking, begun = yield from _claimed_as_obliged(asking, wait_s, or_unguarded=unguarded)
        except LedgerUnavailable as error:
            if unguarded and error._redact is None:  # noqa: SLF001 - our own class
                return _unguarded(asking)
            error.key = asking.identity.key
            raise
        if deadline_s is None:
            deadline_s = begun.now_s + asking.terms.wait_timeout_s
        if begun.verdict in (Verdict.RUN, Verdict.REPLAY):
            _warn_of_soft_limits(begun)
            return begun if probed is None else replace(begun, details={**begun.details, "probed": probed})
        if begun.verdict is Verdict.OUTCOME_UNKNOWN and begun.details.get("probe"):
            probed = yield from _probe(asking, begun)
            continue
        if not asked:
            asked = yield from told(asking, begun)
        left_s = deadline_s - begun.now_s
        if begun.verdict not in WAITS or left_s <= 0:
            raise answered(refusal(begun, asking.call), asking, begun)
        if wait_s is None:
            waiter = yield Listen(asking.tenant, begun.key)
        else:
            yield Wait(waiter, left_s, begun.details.get("left_s"))
        wait_s = left_s


def _shadowed(asking: Asking) -> Steps[Begun]:
    """Ask once, and let the call run whatever the verdict."""
    name = asking.call.name
    try:
        _, begun = yield from _claimed_as_obliged(asking)
    except (LedgerUnavailable, ConfigError) as error:
        logger.warning("shadow: %s runs, and what the ledger would say is not known: %s", name, error)
        return replace(_run_anyhow(asking), would_have="ledger_unavailable")
    if begun.verdict is Verdict.RUN:
        _warn_of_soft_limits(begun)
        return begun
    logger.info("shadow: %s runs; enforced, its verdict would be %s", name, begun.verdict)
    return replace(_run_anyhow(asking), would_have=str(begun.verdict), reason=begun.reason, details=begun.details)


def begun_once(asking: Asking) -> Steps[Begun]:
    """Ask once, whatever the verdict."""
    if asking.shadow:
        return (yield from _shadowed(asking))
    begun = yield from claimed(asking)
    yield from told(asking, begun)
    return begun


def told(asking: Asking, begun: Begun) -> Steps[bool]:
    """Where this very begin has asked for a person's consent, tell the user's hook; its errors are logged.

    Returns:
        Whether it has.
    """
    if begun.verdict is not Verdict.AWAITING_APPROVAL or not begun.details.get("requested"):
        return False
    if asking.traced is not None and asking.traced.pending is not None:
        asking.traced.pending(asking, begun)
    hook = asking.on_approval_needed
    if hook is not None:
        try:
            approval = _requested(asking, begun)
            yield Look(lambda: hook(approval))
        except Exception:
            logger.exception("on_approval_needed failed for %s; the request stands", asking.call.name)
    return True


def guarded(asking: Asking, codec: Codec) -> Steps[Outcome]:
    """Run one function at most once: begin, invoke, settle."""
    begun = yield from admitted(asking)
    asking = obliged(asking, begun)
    if begun.verdict is Verdict.REPLAY:
        return replayed(asking, begun, codec)
    ended = yield Invoke(begun)
    return (yield from finished(asking, begun, ended, codec))


def replayed(asking: Asking, begun: Begun, codec: Codec) -> Outcome:
    """Make the outcome of a replay.

    Raises:
        ResultNotKept: There is no result to give back, or what it is made of has changed since.
    """
    try:
        return _given_back(asking, begun, codec)
    except BaseException:
        asking.not_done()
        raise


def _given_back(asking: Asking, begun: Begun, codec: Codec) -> Outcome:
    if not begun.result_kept:
        gone = begun.reason or "its result was not kept"
        raise ResultNotKept(f"{asking.call.name!r} succeeded before and {gone}; it is not run again", key=begun.key)
    name = asking.call.name
    tree = opened(begun.result, asking.payload_codec, tenant=asking.tenant, key=begun.key, name=name)
    try:
        value = codec.decode(tree, asking.call)
    except Exception as error:
        why = type(error).__name__ if asking.content.redactor.redact else error
        raise ResultNotKept(
            f"{name!r} succeeded before and its result can no longer be given back: {why}; it is not run again",
            key=begun.key,
        ) from error
    return Outcome(begun, Ended(value), replayed=True, recorded="succeeded", result_kept=True)


def claimed(asking: Asking, wait_s: float | None = None, *, or_unguarded: bool = False) -> Steps[Begun]:
    """Ask once. What was claimed without the caller's learning it is given back, because it will not be invoked.

    Args:
        asking: The call.
        wait_s: Whoever asks will wait so long to be woken.
        or_unguarded: It will be invoked where there is no answer.
    """
    try:
        return (yield asking.ask(wait_s))  # type: ignore[no-any-return]
    except LedgerUnavailable as error:
        if error.asked and not or_unguarded:
            yield Keep(_unclaim(asking))
        raise
    except (Exception, GeneratorExit):
        raise
    except BaseException:
        unclaim = _unclaim(asking)
        try:
            given_back = is_known((yield unclaim))
        except Exception:  # the interruption goes on, whatever becomes of the claim
            logger.exception("%s was interrupted, and its claim could not be given back yet", asking.call.name)
            given_back = False
        if not given_back:
            yield Keep(unclaim)
        raise


def _claimed_as_obliged(
    asking: Asking, wait_s: float | None = None, *, or_unguarded: bool = False
) -> Steps[tuple[Asking, Begun]]:
    """Ask as `claimed` does, and again where grants redact what the question did not say that it keeps.

    Returns:
        The question that was answered, and its answer.
    """
    begun = yield from claimed(asking, wait_s, or_unguarded=or_unguarded)
    while "obliges" in begun.details:
        asking = asking_again(asking, begun)
        try:
            begun = yield from claimed(asking, wait_s)
        except LedgerUnavailable as error:
            error._redact = asking.obliged or ()  # noqa: SLF001 - our own class
            raise
    return asking, begun


def _unclaim(asking: Asking) -> Ask:
    begin = asking.item()
    item = {name: begin[name] for name in _KNOWN_BY if name in begin} | {"not_invoked": True}
    return Ask("fail", asking.tenant, item, shielded=True)


def _probe(asking: Asking, begun: Begun) -> Steps[Resolution]:
    probe = asking.terms.probe
    if probe is None:
        raise refusal(begun, asking.call)
    item: dict[str, Any] = {
        "key": begun.key,
        "attempt": begun.attempt,
        "probe_id": asking.attempt_id,
        "by": f"probe:{_name_of(probe)}",
    }
    reason = "the probe could not tell either"
    try:
        found: Resolution | None = yield Look(lambda: probe(asking.call, begun.key))
        finding = _finding(asking, found)
    except Exception as error:
        words = asking.content.words(storable(str(error)))
        trace = None if asking.content.redactor.redact else error
        logger.exception(
            "the probe of %s failed: %s: %s", asking.call.name, type(error).__name__, words, exc_info=trace
        )
        found, finding, reason = None, {"outcome": "unknown"}, f"its probe failed: {words}"
    yield Ask("probed", asking.tenant, item | finding)
    if found is None:
        raise refusal(replace(begun, reason=reason), asking.call)
    return found


def _finding(asking: Asking, found: Resolution | None) -> dict[str, Any]:
    if found is None:
        return {"outcome": "unknown"}
    if not isinstance(found, Resolution) or found.outcome not in RESOLUTIONS:
        raise TypeError(f"a probe returns a Resolution of {', '.join(RESOLUTIONS)}, or None, not {found!r}")
    finding: dict[str, Any] = {"outcome": found.outcome}
    if found.reason is not None:
        finding |= {"reason": storable(asking.content.words(found.reason))}
    if found.outcome == "succeeded":
        text = found_text(asking.kept, found.result, asking.content)
        finding |= {"result": text, "result_kept": text is not None}
    return finding


def _requested(asking: Asking, begun: Begun) -> Approval:
    now = dt.datetime.fromtimestamp(begun.now_s, dt.UTC)
    call = asking.call
    return Approval(
        id=begun.approval_id or "",
        key=begun.key,
        tool=call.name,
        arguments=None if asking.arguments is None else json.loads(asking.arguments),
        requested_at=now,
        expires_at=now + dt.timedelta(seconds=float(begun.details["left_s"])),
        workflow_id=asking.identity.scope,
        agent=call.agent,
        actor=call.actor,
        rule=asking.terms.rule,
        tenant=asking.tenant,
    )


def _warn_of_soft_limits(begun: Begun) -> None:
    for budget in begun.budgets:
        if "soft" in budget:
            logger.warning(
                "budget %r is past its soft limit: %s left of it after this call",
                budget["name"],
                amount_of(budget["unit"], budget["remaining"]),
            )


def _unguarded(asking: Asking) -> Begun:
    logger.warning("the ledger does not answer; %s runs unguarded, as its rule allows", asking.call.name)
    return replace(_run_anyhow(asking), unguarded=True)


def _run_anyhow(asking: Asking) -> Begun:
    return Begun(
        Verdict.RUN,
        asking.identity.key,
        0,
        asking.attempt_id,
        asking.call.name,
        asking.tenant,
        asking.identity.source,
    )


def _name_of(function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", "?")
    return f"{module}:{getattr(function, '__qualname__', type(function).__qualname__)}"
