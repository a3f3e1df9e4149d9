"""`SpanDecider`: the span processor.

Rules: it stands behind the gate and decides as the gate does, or not at all while that is open. A span that came
through the gate is decided already and is left alone; one that reaches the SDK past it (a tracer that somebody patched)
is decided here, on the caller's thread, and settled when it ends. It exports nothing and never raises from `on_end`.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ConcurrentMultiSpanProcessor, ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import StatusCode

from spanledger._guard import Guard
from spanledger._inside import Inside
from spanledger.core.asking import Asking
from spanledger.core.call import Begun, Ended
from spanledger.core.frozen import value
from spanledger.core.values import NOT_SHOWN
from spanledger.errors import WrapMissing
from spanledger.telemetry import gate, instruments, metrics, reading, record, semconv, spans
from spanledger.telemetry.quiet import quietly

logger = logging.getLogger("spanledger.telemetry")

OPEN_SPANS_MAX: Final = 10_000


@value
class _Open:
    guard: Guard
    asked: tuple[Asking, Begun] | Inside
    around: BaseException | None


class SpanDecider(SpanProcessor):
    """Decides tool spans when they start and settles them when they end.

    Args:
        guard: Closes the gate with it; None: leaves the gate as it is.
    """

    def __init__(self, guard: Guard | None) -> None:
        self._open: dict[int, _Open] = {}
        self._lock = threading.Lock()
        if guard is not None:
            gate.install(guard)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Decide a span that did not come through the gate.

        Raises:
            SpanledgerError: Its body must not run; the span has been ended.
            WrapMissing: It cannot be decided here; the span is lost.
        """
        guard = gate.guard()
        if guard is None or (parent_context is not None and record.OWN_SPAN in parent_context):
            return
        call = reading.describe(span.name, span.attributes or {}, waits=not spans.on_loop())
        if call is None:
            return
        if isinstance(getattr(span, "_span_processor", None), ConcurrentMultiSpanProcessor):
            # In a thread of its pool nothing is known of the caller, and ending the span here waits for that very pool.
            raise WrapMissing(
                f"{call.name!r} was started past the gate on a ConcurrentMultiSpanProcessor, where it cannot be "
                "guarded: give the provider a SynchronousMultiSpanProcessor"
            )
        if guard.config.content(call).redactor.redact:
            # The span itself is in the caller's hands already, and whatever is written on it is exported.
            raise WrapMissing(
                f"{call.name!r} was started past the gate, where nobody can keep off the span what its rule redacts: "
                "start it by a tracer whose start_span is not patched"
            )
        asked = gate.decide(guard, call, span)
        context = span.get_span_context()
        if asked is not None and context is not None:
            with self._lock:
                # A span that never ends must not keep its neighbours from being settled.
                full = len(self._open) >= OPEN_SPANS_MAX
                forgotten = self._open.pop(next(iter(self._open))) if full else None
                self._open[context.span_id] = _Open(guard, asked, sys.exc_info()[1])
            if forgotten is not None:
                _forget(forgotten)

    def on_end(self, span: ReadableSpan) -> None:
        """Settle a span that was decided here."""
        context = span.get_span_context()
        if context is None:
            return
        with self._lock:
            found = self._open.pop(context.span_id, None)
        if found is None:
            return
        if isinstance(found.asked, Inside):
            found.asked.leave()
            return
        leaving, attributes = sys.exc_info()[1], span.attributes or {}
        if leaving is not None and leaving is not found.around:
            # `end()` runs while the exception is on its way; some leave the status unset.
            ended = Ended(error=leaving, doubtful=span.status.status_code is not StatusCode.ERROR)
        elif span.status.status_code is StatusCode.ERROR:
            ended = Ended(error=spans.NoEvidence(span.status.description or "status ERROR"))
        else:
            ended = Ended(reading.result_of(attributes.get(semconv.TOOL_CALL_RESULT, NOT_SHOWN)))
        spans.settle(found.guard, found.asked, ended)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until the ledger was told how the spans ended that have ended."""
        guard = gate.guard()
        return guard is None or guard.later.flush(timeout_millis / 1000)

    def shutdown(self) -> None:
        """As `force_flush`."""
        self.force_flush()


@quietly
def _forget(span: _Open) -> None:
    """Say that the end of a span will not be told to the ledger."""
    metrics.count(instruments.SPANS_FORGOTTEN, {})
    if isinstance(span.asked, Inside):
        span.asked.leave()
        return
    logger.warning(
        "more than %d guarded spans are open: how %r ends is not waited for any more, and the call counts as unknown "
        "once its lease is over",
        OPEN_SPANS_MAX,
        span.asked[1].tool,
    )
