"""Model calls of instrumented clients that the ledger was not asked about, counted all the same and counted once.

Rules: in a session, they are recorded when they have ended, in the background, so that the session's sums hold
whether a budget covers its calls or not. A program that records by hand what its instrumented client has made counts
nothing twice: a call is told by the provider's id of the answer and by what it used, because some servers give few ids.
Each is taken once, and of so many only the last are remembered.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from opentelemetry.trace import Span

from spanledger.config import Config
from spanledger.core.asking import Asking
from spanledger.core.call import Call, Usage
from spanledger.core.keys import report_of
from spanledger.errors import Undescribable
from spanledger.instrument._reserve import charged
from spanledger.placing import Ambient, placed_in
from spanledger.telemetry import recorded
from spanledger.telemetry.quiet import quietly

REMEMBERED_MAX: Final = 10_000

_Told = tuple[str | None, int | None, int | None]
# Without a lock: each operation on it is atomic, and two calls may be noted in either order.
_calls: OrderedDict[_Told, None] = OrderedDict()


@dataclass(frozen=True, slots=True)
class Answered:
    """How a model call ended: what it used, the seconds it took, and what was raised."""

    usage: Usage
    took_s: float
    error: BaseException | None


def note(usage: Usage) -> None:
    """Remember a call that was counted."""
    if usage.response_id is None:
        return
    told = usage.response_id, usage.input_tokens, usage.output_tokens
    _calls[told] = None
    if len(_calls) > REMEMBERED_MAX:
        _calls.popitem(last=False)


def take(usage: Usage) -> bool:
    """Tell whether a call was counted, and forget it."""
    told = usage.response_id, usage.input_tokens, usage.output_tokens
    return _calls.pop(told, False) is None


@quietly
def tell(config: Config, call: Call, answered: Answered, span: Span, around: Ambient) -> None:
    """Tell the ledger of a model call that was made in a session.

    Args:
        config: Prices, and what may be seen of it.
        call: The call.
        answered: How it ended.
        span: Its span.
        around: The workflow that it was made in.
    """
    asking = described(config, placed_in(call, around))
    error = None if answered.error is None else asking.content.error(answered.error)
    secret = None if config.secret is None else config.secret.encode()
    report = report_of(asking.tenant, asking.attempt_id, secret)
    cost = charged(asking.call, answered.usage, config)
    made = recorded.Made(asking, report, answered.usage, cost, answered.took_s, error=error)
    recorded.tell(made, span, around)


def described(config: Config, call: Call) -> Asking:
    """Describe a call that was made; one that cannot be described, without its arguments."""
    attempt_id = str(uuid.uuid4())
    try:
        return config.asking(call, attempt_id=attempt_id)
    except Undescribable:
        bare = replace(call, arguments=None, call_id=None)
        return replace(config, rules=()).asking(bare, attempt_id=attempt_id)
