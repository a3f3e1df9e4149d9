"""One call on its way through the engine: how its result is kept, and how it ended.

Rules: pure, but for a log line where an extractor of a library fails: the side effect has happened by then.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

from spanledger._guard import RunningCall
from spanledger.core.call import EXECUTE_TOOL, Begun, Call, Codec, Ended
from spanledger.core.frozen import value
from spanledger.core.rules import Rule
from spanledger.instrument.library import Pause, Tell, Wrap

logger = logging.getLogger("spanledger.instrument")


class NoCodec:
    """For results that cannot be kept."""

    def encode(self, result: Any) -> Any:
        """Refuse to keep a result."""
        raise TypeError(f"nothing is known about keeping a {type(result).__qualname__}")

    def decode(self, tree: Any, call: Call) -> Any:
        """Never called: nothing was kept."""
        raise TypeError(f"{call.name} has no kept result, yet one was found: {tree!r:.80}")


@value
class Job:
    """One call on its way through the engine.

    Attributes:
        call: The call.
        codec: How its result is kept.
        own: What the developer gave at the tool itself.
        wrap: Where it came from; None for a tool of the developer's own.
        travelled: What came with the call from another process.
        pause: How the run is suspended where a person has to approve; None where it cannot be.
        tell: How the model is told of a refusal; None where it cannot be.
        takes: Is given the arguments that may be passed on, before the function is called.
        given: Of a run of an agent: instance, arguments and keyword arguments of the function.
    """

    call: Call
    codec: Codec
    own: Rule | None = None
    wrap: Wrap | None = None
    travelled: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pause: Pause | None = None
    tell: Tell | None = None
    takes: Callable[[Mapping[str, Any]], None] | None = None
    given: tuple[Any, Any, Any] | None = None

    def begun(self, begun: Begun) -> None:
        """The call runs now; where a person has allowed it, and for the first time, its run may have been resumed."""
        if self.pause is None or begun.approval_id is None or begun.attempt > 1:
            return
        try:
            self.pause.resumed()
        except Exception:
            logger.exception("%s goes on, but what its run was resumed with could not be read", self.call.name)

    def ended(self, value: Any, ran: RunningCall) -> Ended:
        """Say how a function that returned `value` ended."""
        failure = self._said(self.wrap.failure, value) if self.wrap and self.wrap.failure else None
        if self.wrap and self.wrap.asks_back and self._said(self.wrap.asks_back, value):
            return Ended(value, paused=True, cost=ran.cost(succeeded=False))
        hidden = ran.inside.hidden
        if isinstance(failure, BaseException):
            failure, hidden = None, failure
        if hidden is not None:
            failure = failure or str(hidden) or type(hidden).__name__
        cost = ran.cost(succeeded=failure is None)
        return ran.inside.told_by(Ended(value, failure=failure, hidden=hidden, doubtful=ran.inside.doubtful, cost=cost))

    def _said(self, extractor: Callable[[Any], Any], value: Any) -> Any:
        try:
            return extractor(value)
        except Exception:
            # The side effect has happened and the caller gets its result.
            logger.exception("how %s ended cannot be told", self.call.name)
            return None

    def raised(self, error: BaseException, ran: RunningCall) -> Ended:
        """Say how a function that raised `error` ended."""
        paused, cost = pauses(self.wrap, error), ran.cost(succeeded=False)
        return ran.inside.told_by(Ended(error=error, paused=paused, doubtful=ran.inside.doubtful, cost=cost))


def pauses(wrap: Wrap | None, error: BaseException) -> bool:
    """Tell whether an exception is a framework's way to go on elsewhere."""
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__}
    return wrap is not None and not names.isdisjoint(wrap.pauses)


def job_for(
    wrap: Wrap,
    call: Call,
    *,
    codec: Codec | None = None,
    pause: Pause | None = None,
    tell: Tell | None = None,
    travelled: Mapping[str, Any] | None = None,
) -> Job:
    """Make a job of a described call."""
    return Job(call, codec or wrap.codec or NoCodec(), wrap=wrap, travelled=travelled or {}, pause=pause, tell=tell)


def is_tool(wrap: Wrap) -> bool:
    """Tell whether a wrap is of a tool."""
    return wrap.operation == EXECUTE_TOOL
