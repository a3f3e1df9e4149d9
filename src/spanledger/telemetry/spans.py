"""The span that the gate hands out for a guarded call: a thin proxy that sees how it ends and settles the call.

Rules: it is a span to everybody. It settles once, before the span ends. Success needs evidence: an exit by
cancellation, KeyboardInterrupt or a closed generator leaves a span unset, and that is no success. Nothing is raised
after the side effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import wrapt
from opentelemetry.trace import Span, StatusCode

from spanledger._guard import Guard, entered, made_running
from spanledger._inside import Inside
from spanledger.core.asking import Asking
from spanledger.core.call import Begun, Call, Codec, Ended, Outcome
from spanledger.core.outcomes import alone
from spanledger.core.settling import finished, foreseen
from spanledger.core.values import NOT_SHOWN, decode, encode
from spanledger.telemetry import record, scopes, semconv
from spanledger.telemetry.reading import result_of

logger = logging.getLogger("spanledger.telemetry")


class SpanCodec:
    """Results of hand-written spans: the text of `gen_ai.tool.call.result`, as JSON where it is JSON."""

    def encode(self, result: Any) -> Any:
        """Turn a result into a JSON tree."""
        return encode(result, exact=True)

    def decode(self, tree: Any, call: Call) -> Any:  # noqa: ARG002 - the call matters to other codecs
        """Turn a tree back; `NOT_SHOWN` where no span has shown the result."""
        return NOT_SHOWN if tree == _NOT_SHOWN_TREE else decode(tree)


CODEC: Final[Codec] = SpanCodec()

if TYPE_CHECKING:
    _SpanProxy = wrapt.ObjectProxy[Span]
else:  # only its stubs are generic
    _SpanProxy = wrapt.ObjectProxy


_NOT_SHOWN_TREE: Final = encode(NOT_SHOWN)


class NoEvidence(Exception):
    """The span ended with ERROR status and no exception."""


def settle(guard: Guard, asked: tuple[Asking, Begun], ended: Ended) -> Outcome | None:
    """Tell the ledger how a span ended; nothing is raised after the side effect.

    In a thread of its own the caller waits, as it waits for `@tool`: what it hands on next may be taken up by another
    process, which must find the call settled. On a running loop it must not wait, because everything on the loop
    would. There the outcome is queued, and the span says what the ledger will be told.

    Args:
        guard: How to tell the ledger.
        asked: What was asked and answered.
        ended: How it ended.
    """
    asking, begun = asked
    if ended.error is not None and scopes.pauses(ended.error):
        ended = replace(ended, paused=True)
    steps = finished(asking, begun, ended, CODEC)
    try:
        if not on_loop():
            return guard.blocking.drive(steps)
        guard.later.drive(begun, steps)
        return Outcome(begun, ended, recorded=foreseen(asking, ended), queued=True)
    except Exception as error:
        name = asking.call.name
        logger.exception("the outcome of a span of %s could not be recorded", name, exc_info=alone(error))
        return None


class StoodForSpan(_SpanProxy):
    """A span of a call that the call around stands for, until the span ends."""

    def __init__(self, span: Span, inside: Inside) -> None:
        super().__init__(span)
        self._self_inside: Inside | None = inside

    def __enter__(self) -> Self:
        self.__wrapped__.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._self_leave()
        self.__wrapped__.__exit__(kind, error, tb)

    def end(self, end_time: int | None = None) -> None:
        """End the span."""
        self._self_leave()
        self.__wrapped__.end(end_time)

    def _self_leave(self) -> None:
        inside, self._self_inside = self._self_inside, None
        if inside is not None:
            inside.leave()


class _Seen:
    """What is seen of a guarded call by its span, until it is settled.

    Attributes:
        open: It has not been settled.
        call: The running call.
        result: What its span says that the tool returned.
        recorded: The exception that was recorded last.
        failure: Why its status says that it failed.
    """

    __slots__ = ("_around", "_asked", "_guard", "call", "failure", "open", "recorded", "result")

    def __init__(self, guard: Guard, asked: tuple[Asking, Begun]) -> None:
        self._guard = guard
        self._asked = asked
        self._around = sys.exc_info()[1]
        self.open = True
        self.call = made_running(*asked)
        self.result: Any = NOT_SHOWN
        self.recorded: BaseException | None = None
        self.failure: str | None = None

    @property
    def wanted(self) -> bool:
        """The ledger keeps the result, where the span is given it."""
        return self.open and self._asked[0].terms.keep_result

    def ended(self) -> Outcome | None:
        """Settle the call of a span that is ended by the caller's caller; None where that was done, or could not be."""
        leaving = sys.exc_info()[1]
        if leaving is self._around:
            return self.settled(None)
        frame = sys._getframe(2)  # noqa: SLF001 - who ends the span; looking at it costs, so only where it matters
        # Cancellation, KeyboardInterrupt and GeneratorExit leave the status unset; that is no success. But somebody
        # may be handling an exception that never came through here; then it is no failure either.
        return self.settled(leaving, guessed=not _came_through(leaving, frame))

    def settled(self, error: BaseException | None, *, guessed: bool = False) -> Outcome | None:
        """Settle the call that was left by an exception, or by none; None where that was done, or could not be."""
        if not self.open:
            return None
        self.open = False
        if error is None and self.failure is not None:
            error = self.recorded or NoEvidence(self.failure)
        inside = self.call.inside
        inside.over = True
        ended = Ended(
            None if error else result_of(self.result),
            error,
            doubtful=guessed or inside.doubtful,
            cost=self.call.cost(succeeded=error is None),
        )
        return settle(self._guard, self._asked, inside.told_by(ended))


class GuardedSpan(_SpanProxy):
    """A span that settles its call when it ends."""

    def __init__(self, span: Span, guard: Guard, asked: tuple[Asking, Begun]) -> None:
        super().__init__(span)
        self._self_seen = _Seen(guard, asked)

    def running(self) -> AbstractContextManager[Any]:
        """Make the call of this span the running one."""
        return entered(self._self_seen.call) if self._self_seen.open else contextlib.nullcontext()

    def __enter__(self) -> Self:
        self.__wrapped__.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._self_settled(self._self_seen.settled(error))
        self.__wrapped__.__exit__(kind, error, tb)

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute; the result of the tool is remembered."""
        if key == semconv.TOOL_CALL_RESULT:
            self._self_seen.result = value
        self.__wrapped__.set_attribute(key, value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes; the result of the tool is remembered."""
        if semconv.TOOL_CALL_RESULT in attributes:
            self._self_seen.result = attributes[semconv.TOOL_CALL_RESULT]
        self.__wrapped__.set_attributes(attributes)

    def is_recording(self) -> bool:
        """Tell whether it is worth while to set attributes: until it has ended, because the ledger keeps the result."""
        return self._self_seen.wanted or self.__wrapped__.is_recording()

    def record_exception(self, exception: BaseException, *args: Any, **kwargs: Any) -> None:
        """Record an exception; it says why, where the status says that the call failed, and may have been handled."""
        self._self_seen.recorded = exception
        self.__wrapped__.record_exception(exception, *args, **kwargs)

    def set_status(self, status: Any, description: str | None = None) -> None:
        """Set the status; ERROR means the call failed, OK that it did not."""
        code = getattr(status, "status_code", status)
        if code is StatusCode.ERROR:
            self._self_seen.failure = description or getattr(status, "description", None) or "status ERROR"
        elif code is StatusCode.OK:
            self._self_seen.failure = None
        self.__wrapped__.set_status(status, description)

    def end(self, end_time: int | None = None) -> None:
        """Settle the call, then end the span."""
        self._self_settled(self._self_seen.ended())
        self.__wrapped__.end(end_time)

    def _self_settled(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            record.finished(self.__wrapped__, outcome)


def on_loop() -> bool:
    """Tell whether whoever blocks here blocks an event loop."""
    # The public one raises where there is none, which takes ten times as long.
    return asyncio._get_running_loop() is not None  # noqa: SLF001


def _came_through(error: BaseException | None, frame: FrameType) -> bool:
    """Tell whether an exception passed a frame, rather than being handled somewhere around it."""
    step = error.__traceback__ if error is not None else None
    while step is not None and step.tb_frame is not frame:
        step = step.tb_next
    return step is not None


def unshared(span: Span) -> Span:
    """Return the span itself where a tracer handed out the proxy of one."""
    # A no-op tracer hands out the current span again; its end must not settle the call around it.
    # By its type: asking a proxy for its class answers with that of the span, and costs more.
    return span.__wrapped__ if type(span) in _PROXIES else span  # type: ignore[attr-defined]


_PROXIES: Final[tuple[type, ...]] = (GuardedSpan, StoodForSpan)
