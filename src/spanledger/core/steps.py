"""The life of one call, written once for sync and async.

Rules: these generators know no clock, no socket and no span. They yield what has to be done and are sent what
came of it; `spanledger.ledger._drivers` carries the steps out, blocking or awaiting. All time is the
database's, taken from its answers.

    admitted   asks until there is a verdict: run or replay come back, everything else is raised
    finished   tells the ledger how it ended; after the side effect nothing is raised
    guarded    the two around one function

Every function of the ledger may be asked again under the same attempt id and gives the same answer, so a
driver repeats what was lost on the way. If the caller is interrupted before the function was invoked, the
claim is given back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from spanledger.core.call import EXECUTE_TOOL, Begun, Call, Codec, Ended, Identity, Outcome, Resolution, Verdict
from spanledger.core.outcomes import describe_error, is_ambiguous, storable
from spanledger.core.refusals import refusal
from spanledger.core.rules import Terms
from spanledger.core.values import encode, serialize
from spanledger.errors import LedgerUnavailable, ResultNotKept

logger = logging.getLogger("spanledger.core")

# A waiter looks again after these, growing; the driver adds jitter.
WAIT_STEP_S_MIN = 0.02
WAIT_STEP_S_MAX = 0.5
PROBE_LEASE_S = 30.0

RESOLUTIONS = ("succeeded", "failed", "retry")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """Call one function of the ledger with one item.

    Attributes:
        function: ``"begin"``, ``"settle"``, ``"fail"``, ``"resolve"``, ``"probed"`` or ``"cancel"``.
        tenant: Whose ledger it is.
        item: The item, JSON.
        shielded: Must be carried out even if the caller is being cancelled.
        run_max_s: For ``"begin"``: signs of life are given for so long at most; None while it runs.
    """

    function: str
    tenant: str
    item: Mapping[str, Any]
    shielded: bool = False
    run_max_s: float | None = None


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep an outcome on disk that the ledger did not take; answered with whether that was possible."""

    ask: Ask


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until the call of this key may have changed, at most `wait_s`."""

    key: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class Look:
    """Call a probe, which may block and may be a coroutine function."""

    probe: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Invoke:
    """Call the wrapped function; the answer is an `Ended`, never an exception."""

    begun: Begun


Step = Ask | Keep | Wait | Look | Invoke
Steps = Generator[Step, Any, T]


@dataclass(frozen=True, slots=True)
class Asking:
    """All that `begin` needs to know of one call.

    Attributes:
        call: The call.
        terms: What applies to it.
        identity: Which call it is.
        tenant: Whose ledger it is.
        attempt_id: Made anew for every attempt by the caller.
        reserve: Unit → steps to reserve.
        arguments: The arguments as JSON text, for people to read; None where they are too long or unknown.
        result_bytes_max: Larger results are not kept.
        lent: Unit → steps that a call around this one has reserved for both of them.
        trace_id: Of the span around the call, hexadecimal.
        span_id: Likewise.
    """

    call: Call
    terms: Terms
    identity: Identity
    tenant: str
    attempt_id: str
    reserve: Mapping[str, int]
    arguments: str | None
    result_bytes_max: int
    lent: Mapping[str, int] = field(default_factory=dict)
    trace_id: str | None = None
    span_id: str | None = None

    def ask(self) -> Ask:
        """The question to the ledger."""
        return Ask("begin", self.tenant, self.item(), run_max_s=self.terms.run_max_s)

    def item(self) -> dict[str, Any]:
        """The item for the ledger's `begin`."""
        call, terms = self.call, self.terms
        return {
            "key": self.identity.key,
            "fingerprint": self.identity.fingerprint,
            "key_source": self.identity.source,
            "attempt_id": self.attempt_id,
            "tool": call.name,
            "operation": call.operation,
            "workflow_id": self.identity.scope,
            "call_id": call.call_id,
            "agent": call.agent,
            "actor": call.actor,
            "arguments": self.arguments,
            "rule": terms.rule,
            "trace_id": self.trace_id,
            "span_id": self.span_id,
            "reserve": dict(self.reserve),
            "lease_s": terms.lease_s,
            "replay_for_s": terms.replay_for_s,
            "on_mismatch": terms.on_mismatch,
            "on_unknown": terms.on_unknown,
            "on_failure": terms.on_failure,
            "attempts_max": terms.attempts_max,
            "probe_lease_s": PROBE_LEASE_S,
        }


def admitted(asking: Asking) -> Steps[Begun]:
    """Ask until the call may run or is replayed.

    Returns:
        A `Begun` whose verdict is run or replay.

    Raises:
        SpanledgerError: Every other verdict, as the error of its name.
    """
    deadline_s: float | None = None
    wait_s = WAIT_STEP_S_MIN
    probed: Resolution | None = None
    while True:
        try:
            begun = yield from claimed(asking)
        except LedgerUnavailable as error:
            if asking.terms.on_ledger_down == "continue":
                return _unguarded(asking)
            error.key = asking.identity.key
            raise
        if deadline_s is None:
            deadline_s = begun.now_s + asking.terms.wait_timeout_s
        if begun.verdict in (Verdict.RUN, Verdict.REPLAY):
            return begun if probed is None else replace(begun, details={**begun.details, "probed": probed})
        if begun.verdict is Verdict.OUTCOME_UNKNOWN and begun.details.get("probe"):
            probed = yield from _probe(asking, begun)
            continue
        left_s = deadline_s - begun.now_s
        if begun.verdict is not Verdict.IN_PROGRESS or left_s <= 0:
            raise refusal(begun, asking.call)
        lease_left_s = max(float(begun.details.get("lease_left_s") or wait_s), 0.001)
        yield Wait(begun.key, min(wait_s, left_s, lease_left_s))
        wait_s = min(wait_s * 1.5, WAIT_STEP_S_MAX)


def finished(asking: Asking, begun: Begun, ended: Ended, codec: Codec) -> Steps[Outcome]:
    """Tell the ledger how the call ended; what fails is logged, never raised, and told later if it can be."""
    if begun.unguarded:
        return Outcome(begun, ended)
    recorded, item = _recorded(asking, ended, codec)
    item |= {
        "key": begun.key,
        "attempt_id": begun.attempt_id,
        "cost": dict(ended.cost),
        "tool": asking.call.name,
    }
    ask = Ask("settle" if recorded == "succeeded" else "fail", asking.tenant, item, shielded=True)
    try:
        answer = yield ask
    except GeneratorExit:
        raise
    except BaseException as error:
        kept = yield from _spooled(asking.call.name, recorded, ask, error)
        if not isinstance(error, Exception):
            raise  # interrupted; it may have been told all the same, and twice does no harm
        return Outcome(begun, ended, recorded=kept)
    late = not answer["owned"]
    return Outcome(begun, ended, recorded=recorded, late=late, result_kept=bool(item.get("result_kept")) and not late)


def _spooled(name: str, recorded: str, ask: Ask, error: BaseException) -> Steps[str | None]:
    try:
        kept = yield Keep(ask)
    except Exception:  # noqa: BLE001 - the loss is logged below
        kept = False
    then = "is kept on disk and told later" if kept else "counts as unknown once its lease is over"
    level = logging.ERROR if isinstance(error, Exception) else logging.INFO  # interrupted: perhaps it was recorded
    logger.log(level, "%s: its outcome (%s) could not be recorded; it %s", name, recorded, then, exc_info=error)
    return "spooled" if kept else None


def guarded(asking: Asking, codec: Codec) -> Steps[Outcome]:
    """Run one function at most once: begin, invoke, settle."""
    begun = yield from admitted(asking)
    if begun.verdict is Verdict.REPLAY:
        return replayed(asking, begun, codec)
    ended = yield Invoke(begun)
    return (yield from finished(asking, begun, ended, codec))


def replayed(asking: Asking, begun: Begun, codec: Codec) -> Outcome:
    """Make the outcome of a replay.

    Raises:
        ResultNotKept: There is no result to give back, or what it is made of has changed since.
    """
    if not begun.result_kept:
        raise ResultNotKept(
            f"{asking.call.name!r} succeeded before and its result was not kept; it is not run again",
            key=begun.key,
        )
    try:
        value = codec.decode(begun.result, asking.call)
    except Exception as error:
        raise ResultNotKept(
            f"{asking.call.name!r} succeeded before and its result can no longer be given back: {error}; "
            "it is not run again",
            key=begun.key,
        ) from error
    return Outcome(begun, Ended(value), replayed=True, recorded="succeeded", result_kept=True)


def claimed(asking: Asking) -> Steps[Begun]:
    """Ask once. If the caller is interrupted meanwhile, whatever was claimed is given back."""
    try:
        return (yield asking.ask())  # type: ignore[no-any-return]
    except (Exception, GeneratorExit):
        raise
    except BaseException:
        # Interrupted with the answer under way: whatever was claimed has not been invoked.
        item = {"key": asking.identity.key, "attempt_id": asking.attempt_id, "not_invoked": True}
        try:
            yield Ask("fail", asking.tenant, item, shielded=True)
        except Exception:  # the interruption goes on, whatever becomes of the claim
            logger.exception("%s was interrupted, and its claim could not be given back", asking.call.name)
        raise


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
        finding = _finding(found)
    except Exception as error:
        logger.exception("the probe of %s failed", asking.call.name)
        found, finding, reason = None, _finding(None), f"its probe failed: {error}"
    yield Ask("probed", asking.tenant, item | finding)
    if found is None:
        raise refusal(replace(begun, reason=reason), asking.call)
    return found


def _finding(found: Resolution | None) -> dict[str, Any]:
    if found is None:
        return {"outcome": "unknown"}
    if not isinstance(found, Resolution) or found.outcome not in RESOLUTIONS:
        raise TypeError(f"a probe returns a Resolution of {', '.join(RESOLUTIONS)}, or None, not {found!r}")
    finding: dict[str, Any] = {"outcome": found.outcome}
    if found.reason is not None:
        finding |= {"reason": storable(found.reason)}
    if found.outcome == "succeeded":
        finding |= {"result": keep_plain(found.result), "result_kept": True}
    return finding


def keep_plain(value: Any) -> str:
    """Write a value that somebody else found out as kept JSON text."""
    return serialize(encode(value, exact=True)).decode()


def kept_text(name: str, value: Any, codec: Codec, bytes_max: int) -> str | None:
    """Write a result as the text that is kept; None, and a warning, where that cannot be."""
    try:
        text = serialize(codec.encode(value))
    except Exception as error:  # noqa: BLE001 - a result of any kind has to reach its caller
        logger.warning("the result of %s cannot be kept for replay: %s", name, error)
        return None
    if len(text) > bytes_max:
        logger.warning("the result of %s is too large to be kept (%d bytes)", name, len(text))
        return None
    return text.decode()


def _recorded(asking: Asking, ended: Ended, codec: Codec) -> tuple[str, dict[str, Any]]:
    """Say how the ledger will remember this, and with which item."""
    if ended.paused:
        why = {} if ended.error is None else describe_error(ended.error)
        return "failed", {"not_invoked": True, "error": why | {"type": "paused"}}
    error = ended.error or ended.hidden
    if error is not None or ended.failure is not None:
        ambiguous = ended.doubtful or (error is not None and is_ambiguous(error, asking.terms))
        # Asking a model changes nothing that somebody would have to find out about.
        unknown = ambiguous and asking.call.operation == EXECUTE_TOOL
        told = {"type": "failure", "message": storable(ended.failure or "")}
        item = {"error": told if error is None else describe_error(error), "outcome_unknown": unknown}
        return "unknown" if unknown else "failed", item
    kept, result = _kept(asking, ended.value, codec)
    return "succeeded", {"result": result, "result_kept": kept}


def _kept(asking: Asking, value: Any, codec: Codec) -> tuple[bool, str | None]:
    if not asking.terms.keep_result or asking.identity.source == "none":
        return False, None
    text = kept_text(asking.call.name, value, codec, asking.result_bytes_max)
    return text is not None, text


def _unguarded(asking: Asking) -> Begun:
    logger.warning("the ledger does not answer; %s runs unguarded, as its rule allows", asking.call.name)
    return Begun(
        Verdict.RUN,
        asking.identity.key,
        0,
        asking.attempt_id,
        asking.call.name,
        asking.tenant,
        asking.identity.source,
        unguarded=True,
    )


def _name_of(function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", "?")
    return f"{module}:{getattr(function, '__qualname__', type(function).__qualname__)}"
