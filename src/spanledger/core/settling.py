"""How a call ended, as the ledger will remember it.

Rules: after the side effect nothing is raised: what the ledger does not take is kept on disk, and what cannot be kept
is logged. A result that cannot be written as text that gives it back is not kept, which is logged, too.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

from spanledger.core.asking import Ask, Asking, Keep, Steps, is_known
from spanledger.core.call import EXECUTE_TOOL, Begun, Codec, Ended, Outcome
from spanledger.core.content import Content
from spanledger.core.money import CALLS
from spanledger.core.outcomes import alone, is_ambiguous
from spanledger.core.payload import Kept, sealed
from spanledger.core.values import encode, serialize
from spanledger.errors import LedgerUnavailable, SpanledgerError

logger = logging.getLogger("spanledger.core")

# What says on which budgets a call is booked, and how much where nothing else is known.
_BOOKED_BY = ("tool", "operation", "workflow", "workflow_id", "agent", "actor", "reserve")
_NO_SUCH_CALL = "the ledger has no such call; was it restored, or pruned?"


def finished(asking: Asking, begun: Begun, ended: Ended, codec: Codec) -> Steps[Outcome]:
    """Tell the ledger how the call ended; what fails is logged, never raised, and told later if it can be."""
    # At once, whenever the ledger is told: the next equal call may be asked for before that.
    if asking.counted is not None and (ended.paused or foreseen(asking, ended) != "succeeded"):
        asking.not_done()
    return _finished(asking, begun, ended, codec)


def _finished(asking: Asking, begun: Begun, ended: Ended, codec: Codec) -> Steps[Outcome]:
    recorded, item = _recorded(asking, ended, codec)
    item |= {
        "key": begun.key,
        "attempt_id": begun.attempt_id,
        # By another name it has reserved, and costs, nothing more.
        "cost": cost_of(begun, ended.cost) if recorded == "succeeded" and not asking.alias_of else dict(ended.cost),
        "tool": asking.call.name,
    } | ({"usage": dict(ended.usage)} if ended.usage else {})
    if begun.would_have is not None:
        return Outcome(begun, ended)
    ask = Ask("settle" if recorded == "succeeded" else "fail", asking.tenant, item, shielded=True)
    if begun.unguarded:
        # The ledger hears of it later: that it began, how it ended, and what it cost even if it may not have begun.
        begin = asking.ask()
        item["ran"] = {name: begin.item[name] for name in _BOOKED_BY if name in begin.item}
        kept = yield Keep(ask, begin=begin)
        return Outcome(begun, ended, recorded="spooled" if kept else None)
    try:
        answer = yield ask
    except GeneratorExit:
        raise
    except BaseException as error:
        kept = yield from _spooled(asking.call.name, recorded, ask, error)
        if not isinstance(error, Exception):
            raise  # interrupted; it may have been told all the same, and twice does no harm
        return Outcome(begun, ended, recorded=kept)
    if not is_known(answer):
        kept = yield from _spooled(asking.call.name, recorded, ask, LedgerUnavailable(_NO_SUCH_CALL))
        return Outcome(begun, ended, recorded=kept, late=True)
    late = not answer["owned"]
    return Outcome(begun, ended, recorded=recorded, late=late, result_kept=bool(item.get("result_kept")) and not late)


def cost_of(begun: Begun, said: Mapping[str, int]) -> dict[str, int]:
    """Say what a call cost that succeeded: what was said, else what it reserved, unless a budget holds that already."""
    if said or begun.budgets or not begun.reserved:
        return dict(said)
    return {unit: steps for unit, steps in begun.reserved.items() if unit != CALLS and steps}


def told_by_hand(begun: Begun, ask: Ask) -> Steps[bool]:
    """Tell the ledger how a call ended that somebody has run by hand.

    Returns:
        Whether the attempt owns the call; True as well where the ledger did not answer and the outcome is on disk.

    Raises:
        LedgerUnavailable: It did not answer, and the outcome could not be kept either.
    """
    if begun.would_have is not None:
        return True
    try:
        answer = yield ask
    except LedgerUnavailable as error:
        if not (yield from _spooled(begun.tool, ask.function, ask, error)):
            raise
        return True
    if not is_known(answer):
        yield from _spooled(begun.tool, ask.function, ask, LedgerUnavailable(_NO_SUCH_CALL))
    return bool(answer["owned"])


def _spooled(name: str, recorded: str, ask: Ask, error: BaseException) -> Steps[str | None]:
    try:
        kept = yield Keep(ask)
    except Exception:  # noqa: BLE001 - the loss is logged below
        kept = False
    then = "is kept on disk and told later" if kept else "counts as unknown once its lease is over"
    level = logging.ERROR if isinstance(error, Exception) else logging.INFO  # interrupted: perhaps it was recorded
    text = "%s: its outcome (%s) could not be recorded; it %s: %s"
    # What we raise ourselves says all there is to say.
    trace = None if isinstance(error, SpanledgerError) else alone(error)
    logger.log(level, text, name, recorded, then, str(error) or type(error).__name__, exc_info=trace)
    return "spooled" if kept else None


def found_text(kept: Kept, value: Any, content: Content) -> str | None:
    """Write a value that somebody else found out as the text that is kept; None where its rule hides some of it."""
    if kept.codec is None and content.hides(value):
        _say_not_kept(kept.name)
        return None
    return sealed(serialize(encode(value, exact=True)).decode(), kept)


def kept_text(kept: Kept, value: Any, codec: Codec, content: Content) -> str | None:
    """Write a result as the text that is kept; None, and a warning, where that cannot be."""
    try:
        text = serialize(codec.encode(value))
        if len(text) > kept.bytes_max:
            logger.warning("the result of %s is too large to be kept (%d bytes)", kept.name, len(text))
            return None
        if kept.codec is None and content.hides(value):
            _say_not_kept(kept.name)
            return None
        return sealed(text.decode(), kept)
    except Exception as error:  # noqa: BLE001 - a result of any kind has to reach its caller
        # The words of a codec may repeat what it was given.
        why = type(error).__name__ if content.redactor.redact else error
        logger.warning("the result of %s cannot be kept for replay: %s", kept.name, why)
        return None


@functools.lru_cache(maxsize=1024)
def _say_not_kept(name: str) -> None:
    """Once per tool: say that its rule redacts what a replay would need."""
    logger.warning(
        "the result of %s holds what its rule redacts and is not kept; with an encrypting payload_codec it would be",
        name,
    )


def foreseen(asking: Asking, ended: Ended) -> str:
    """Say how the ledger will remember this: ``"succeeded"``, ``"failed"`` or ``"unknown"``."""
    error = ended.error or ended.hidden
    if error is None and ended.failure is None:
        return "succeeded"
    # Who suspends the run because of a timeout has not undone it; what happened inside is asked about again then.
    doubtful = ended.doubtful and not ended.paused
    ambiguous = doubtful or (error is not None and is_ambiguous(error, asking.terms))
    # Asking a model changes nothing that somebody would have to find out about.
    return "unknown" if ambiguous and asking.call.operation == EXECUTE_TOOL else "failed"


def _recorded(asking: Asking, ended: Ended, codec: Codec) -> tuple[str, dict[str, Any]]:
    """Say how the ledger will remember this, and with which item."""
    recorded = foreseen(asking, ended)
    if ended.paused and recorded == "failed":
        why = {} if ended.error is None else asking.content.error(ended.error)
        return recorded, {"not_invoked": True, "error": why | {"type": "paused"}}
    if recorded == "succeeded":
        kept, result = _kept(asking, ended.value, codec)
        return recorded, {"result": result, "result_kept": kept}
    error = ended.error or ended.hidden
    told = asking.content.failure(ended.failure or "") if error is None else asking.content.error(error)
    return recorded, {"error": told, "outcome_unknown": recorded == "unknown"}


def _kept(asking: Asking, value: Any, codec: Codec) -> tuple[bool, str | None]:
    if not asking.terms.keep_result or asking.identity.source == "none":
        return False, None
    text = kept_text(asking.kept, value, codec, asking.content)
    return text is not None, text
