"""One model call on its way: what it was admitted with, what it says, how it ends.

Rules: it ends once, whoever says so first: its answer, its stream, or the interpreter that finds it dropped. A call
that ends because it was dropped settles in a thread of its own, since that may happen anywhere, in the middle of the
ledger's own work as well. After the provider has answered nothing of ours raises. The blocking and the awaiting forms
are alike but for `await`.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.trace import Span

from spanledger._guard import Guard, ambient
from spanledger.core.asking import Asking, Steps
from spanledger.core.call import Begun, Call, Ended, Outcome, Usage
from spanledger.core.content import Capture
from spanledger.core.money import CALLS
from spanledger.core.outcomes import is_ambiguous, was_never_sent, was_unreadable
from spanledger.core.settling import finished
from spanledger.errors import SpanledgerError
from spanledger.instrument import _added, _bounds, _counted, _open, _raw
from spanledger.instrument._job import NoCodec
from spanledger.instrument._messages import Heard
from spanledger.instrument._prices import price_text
from spanledger.instrument._proxies import innermost
from spanledger.instrument._reserve import ESTIMATED, REPORTED, RESERVED, Reserved, charged, estimated, reserved
from spanledger.instrument._stream import generated, is_generator, is_stream, watch
from spanledger.instrument.library import HiddenChunk, Wrap
from spanledger.placing import Ambient
from spanledger.telemetry import inference, metering, metrics, model_spans, record, semconv

logger = logging.getLogger("spanledger.instrument")


class UnderWay:
    """One model call, from its span's start to its end.

    Attributes:
        request: The keyword arguments of the call, as they will be sent.
        shown: The span, as others see it.
    """

    # What is there once the ledger was asked; and its answer, without which it knows nothing of the call.
    _asking: Asking
    _begun: Begun | None = None
    _reserve = Reserved()
    _hidden: HiddenChunk | None = None
    _plain: Mapping[str, Any] | None = None
    _usage = Usage()
    _heard: Heard | None = None
    _seen_bytes = 0
    _answered = False
    _begun_s = 0.0
    _took_s = 0.0
    _first_chunk_s: float | None = None

    def __init__(self, guard: Guard, wrap: Wrap, call: Call, span: Span, request: dict[str, Any]) -> None:
        self.request = request
        self._guard = guard
        self._wrap = wrap
        self._call = call
        self._span = self.shown = span
        self._goes_on = True
        # Where it ends, in another thread perhaps, nothing is around it.
        self._around = ambient()

    @property
    def direct(self) -> bool:
        """What asks a model in the midst of it makes a call of its own."""
        return self._wrap.direct

    @property
    def is_over(self) -> bool:
        """It has ended."""
        return not hasattr(self, "_goes_on")

    # --- before

    def asked(self) -> Asking:
        """Say what to ask the ledger about a call that it covers.

        Raises:
            Undescribable: A budget needs to know what the call could cost, and nobody does.
        """
        call, config = self._call, self._guard.config
        asking = self._guard.asking(call, span=record.trace_of(self._span))
        record.asked(self._span, asking)
        self.request = _bounds.kept(self.request)
        bound = self._wrap.bound(self.request) if self._wrap.bound else None
        self._reserve = reserved(asking.call, bound, config, asking.reserve)
        self._asking = replace(asking, reserve=self._reserve.amounts)
        return self._asking

    def admitted(self, begun: Begun) -> None:
        """Take the ledger's answer."""
        self._begun = begun
        record.begun(self._span, begun)

    def prepared(self) -> dict[str, Any]:
        """Return what to call the function with; the clock starts now."""
        if self._wrap.prepare is not None:
            asked = self.request
            self.request, self._hidden = self._wrap.prepare(asked)
            if self._hidden is not None:
                self._changed(asked)
        if self._guard.config.content_capture is not Capture.NO_CONTENT:
            self._hear()
        self._begun_s = time.perf_counter()
        return self.request

    def _changed(self, asked: dict[str, Any]) -> None:
        """Remember what was asked before, or go back to it."""
        if _added.is_wanted(self._call):
            self._plain = _added.changed(self.request, asked)
            # It may be sent twice.
            self.request = _bounds.kept(self.request)
        else:
            self.request, self._hidden = asked, None

    def plain(self, error: Exception) -> dict[str, Any] | None:
        """Return what to call the function with once more, where what we have added was refused; None elsewhere."""
        again = _added.without(self.request, self._plain, error) if self._plain else None
        if again is not None:
            self.request, self._hidden = again, None
        return again

    def taken_plain(self) -> None:
        """Hear that what we have added was all that was wrong."""
        _added.is_refused(self._call)

    def _hear(self) -> None:
        """Read what is asked, where anybody takes it and whoever has made the span does not record it."""
        capture, messages = self._guard.config.message_capture, self._wrap.messages
        if messages is None or model_spans.is_counted(self._span) or not inference.is_recorded(self._span, capture):
            return
        self.request = _bounds.kept(self.request)
        self._heard = Heard(messages, self.request)

    # --- the answer

    def answered(self, result: Any) -> Any:
        """Look at what the function returned; return what the caller gets."""
        is_whole = _raw.is_plain(type(result))
        if not is_whole and is_generator(result):
            return generated(result, self)
        self._answered = True
        try:
            if is_whole:
                self._read(result)
            elif self._look(self._wrap.parsed(result) if self._wrap.parsed else result):
                return result
        except Exception as error:  # noqa: BLE001 - logged
            self._unreadable(error)
        self.end()
        return result

    async def answered_awaiting(self, result: Any) -> Any:
        """Look at what the coroutine function returned; return what the caller gets."""
        is_whole = _raw.is_plain(type(result))
        if not is_whole and is_generator(result):
            return generated(result, self)
        self._answered = True
        try:
            if is_whole:
                self._read(result)
                await self.end_awaiting()
                return result
            seen = self._wrap.parsed(result) if self._wrap.parsed else result
            if self._look(await seen if inspect.isawaitable(seen) else seen):
                return result
        except Exception as error:  # noqa: BLE001 - logged
            self._unreadable(error)
        await self.end_awaiting()
        return result

    def _look(self, seen: Any) -> bool:
        """Look at an answer; whether it will say itself when it is over."""
        seen = innermost(seen)
        if is_stream(seen):
            watch(seen, self)
            return True
        if _raw.is_unread(seen):
            _raw.watch_unread(seen, self, self._look_later)
            return True
        self._read(seen)
        return False

    def _look_later(self, seen: Any) -> None:
        """Look at what the caller reads, who gets it whatever we make of it."""
        try:
            self._look(seen)
        except Exception as error:  # noqa: BLE001 - logged
            self._unreadable(error)

    def _read(self, seen: Any) -> None:
        """Read an answer that is there."""
        if self._heard is not None:
            self._heard.answer(seen)
        if self._wrap.measure is not None and seen is not None:
            self._usage = self._wrap.measure(seen)

    def shows(self, chunk: Any) -> bool:
        """Look at a chunk of a stream; tell whether the caller may see it."""
        if self._first_chunk_s is None:
            # A generator may have sent nothing before.
            self._answered = True
            self._first_chunk_s = time.perf_counter() - self._begun_s
        wrap = self._wrap
        heard = self._heard  # where it ends in another thread, it has none
        if heard is not None:
            heard.gather(chunk)
        try:
            if wrap.fold is not None:
                before, self._usage = self._usage, wrap.fold(self._usage, chunk)
                if self._usage is not before and model_spans.is_theirs(self._span):
                    # They may end it with this very chunk.
                    record.known(self._span, self._used())
            if self._begun is not None and wrap.said is not None:
                self._seen_bytes += len(wrap.said(chunk).encode("utf-8", "surrogatepass"))
            return self._hidden is None or not self._hidden(chunk)
        except Exception:
            # What we cannot read, the caller can.
            logger.warning("a chunk of a stream could not be read", exc_info=True)
            return True

    def enter(self) -> Any:
        """Make the call the one that runs here; return what `leave` takes."""
        return model_spans.enter(self, otel_context.get_current())

    def leave(self, entered: Any) -> None:
        """Make what was there before run here again."""
        model_spans.leave(entered)

    def is_entered(self) -> bool:
        """Tell whether the call runs here, and not in another thread or task."""
        return otel_context.get_current().get(model_spans.INSIDE) is self

    # --- the end

    def end(self, error: BaseException | None = None, *, early: bool = False) -> None:
        """Settle the call and end its span."""
        try:
            # In one step: of two threads that end it, one finds nothing to take away.
            del self._goes_on
        except AttributeError:
            return
        self._took_s = time.perf_counter() - self._begun_s
        if error is not None and self._wrap.held is not None:
            self._told_by(error, self._wrap.held)
        try:
            if self._begun is not None:
                steps = self._settling(self._begun, error, early=early)
                record.finished(self._span, self._guard.blocking.drive(steps))
        except Exception as failed:  # noqa: BLE001 - logged
            self._unreadable(failed)
        finally:
            self._ended_by(error)

    async def end_awaiting(self, error: BaseException | None = None, *, early: bool = False) -> None:
        """Settle the call and end its span."""
        try:
            # In one step: of two threads that end it, one finds nothing to take away.
            del self._goes_on
        except AttributeError:
            return
        self._took_s = time.perf_counter() - self._begun_s
        if error is not None and self._wrap.held is not None:
            self._told_by(error, self._wrap.held)
        try:
            if self._begun is not None:
                steps = self._settling(self._begun, error, early=early)
                record.finished(self._span, await self._guard.awaiting.drive(steps))
        except Exception as failed:  # noqa: BLE001 - logged
            self._unreadable(failed)
        finally:
            self._ended_by(error)

    def dropped(self) -> None:
        """Settle the call somewhere else."""
        if self.is_over:
            return
        if self._begun is None or not _open.elsewhere(self.end_dropped):
            self.end_dropped()

    def end_dropped(self) -> None:
        """Settle the call, of which nothing more will be heard."""
        self.end(early=True)

    def is_elsewhere(self) -> None:
        """Hear that another process ends the call."""
        vars(self).pop("_goes_on", None)

    def _settling(self, begun: Begun, error: BaseException | None, *, early: bool) -> Steps[Outcome]:
        """Say what to tell the ledger, which was asked."""
        return finished(self._asking, begun, self._ended(error, early=early), NoCodec())

    def _told_by(self, error: BaseException, held: Callable[[BaseException], Any]) -> None:
        """Read the answer that an error holds."""
        try:
            answer = None if self._answered else held(error)
            if answer is not None:
                self._answered = True
                self._read(answer)
        except Exception as failed:  # noqa: BLE001 - logged
            self._unreadable(failed)

    def _ended_by(self, error: BaseException | None) -> None:
        """Say on the span what the call used and how it ended, tell of it elsewhere, and end the span."""
        span, usage, config = self._span, self._usage, self._guard.config
        try:
            used = self._used()
            record.known(span, used)
            if error is not None:
                self._failed(error)
            if not self._begun_s:
                return
            _counted.note(usage)
            # An event tells of the call, which was made, though nobody may have looked at what was said. Whoever else
            # has made the span counts what the call used, and tells of it.
            told = config.tells_model_calls and self._wrap.messages is not None and not model_spans.is_counted(span)
            if told or self._heard is not None:
                self._tell(used, error)
            if metrics.recorded():
                self._measure(error)
            if self._around is not None and self._around.session_id is not None:
                self._count(error, self._around)
        except Exception as failed:  # noqa: BLE001 - logged
            self._unreadable(failed)
        finally:
            record.end(span)
            # A connection that was opened in the midst of it holds the context, and so the call, as long as it lives.
            self.request, self._heard = {}, None

    def _used(self) -> dict[str, Any]:
        cost = price_text(self._call, self._usage, self._guard.config.prices)
        return inference.used(self._usage, cost=cost, first_chunk_s=self._first_chunk_s)

    def _measure(self, error: BaseException | None) -> None:
        """Record metrics; whoever else has made the span does so of all but what was kept from them."""
        if not model_spans.is_counted(self._span):
            metering.of_model_call(self._call, self._usage, error, self._took_s, self._first_chunk_s)
        elif self._hidden is not None:
            metering.of_tokens(self._call, self._usage)

    def _failed(self, error: BaseException) -> None:
        # Refused before it was sent; in the midst of it another call may have been.
        if not self._begun_s and isinstance(error, SpanledgerError):
            record.refused(self._span, error)
            self._reserve.explain(error)
        else:
            record.failed(self._span, error)

    def _count(self, error: BaseException | None, around: Ambient) -> None:
        """Count the call in its session, where the ledger was not asked."""
        if self._begun is None or self._begun.would_have is not None:
            answered = _counted.Answered(self._usage, self._took_s, error)
            _counted.tell(self._guard.config, self._call, answered, self._span, around)

    def _tell(self, used: Mapping[str, Any], error: BaseException | None) -> None:
        """Record what was said."""
        call, config = self._call, self._guard.config
        try:
            said = None if self._heard is None else self._heard.said(call, config)
        except Exception as failed:  # noqa: BLE001 - logged
            # What it says may be what nobody is to see, so nothing is recorded.
            logger.error("what was said in a model call cannot be recorded: %s", type(failed).__name__)  # noqa: TRY400
            return
        failure = {} if error is None else {semconv.ERROR_TYPE: record.type_of(error)}
        known = {**used, **failure}
        inference.told(self._span, call, known, said, config.message_capture, event=config.tells_model_calls)

    def _ended(self, error: BaseException | None, *, early: bool) -> Ended:
        call, config = self._call, self._guard.config
        costs: dict[str, int] = {}
        if not self._answered and error is not None:
            if is_ambiguous(error, self._asking.terms) and not was_never_sent(error):
                costs = estimated(call, self._usage, 0, self._reserve, config)
            elif was_unreadable(error):
                costs = {unit: steps for unit, steps in self._reserve.amounts.items() if unit != CALLS}
                record.known(self._span, {semconv.USAGE_SOURCE: RESERVED})
        elif error is None and not early:
            costs = charged(call, self._usage, config)
            record.known(self._span, {semconv.USAGE_SOURCE: REPORTED if costs else RESERVED})
        else:
            costs = estimated(call, self._usage, self._seen_bytes, self._reserve, config)
            record.known(self._span, {semconv.USAGE_SOURCE: ESTIMATED if costs else RESERVED})
        return Ended(error=error, cost=costs, usage=self._usage.by_kind)

    def _unreadable(self, error: Exception) -> None:
        # The provider has answered and will be paid: whatever we cannot read, the caller can.
        name = self._call.name
        logger.error("the model call to %s could not be measured or recorded", name, exc_info=error)
