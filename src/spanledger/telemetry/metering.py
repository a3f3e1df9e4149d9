"""Metrics and events of guarded calls, read off the protocol itself.

Rules: whatever asks the ledger goes through a driver, so the drivers are watched and no caller has to remember to
count. The steps of a call pass through unchanged. A call is counted once, by its last verdict, whatever becomes of its
span. Telemetry fails open. Where nobody takes metrics or events, the steps are driven as they are.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from spanledger._guard import Drives, DrivesAwaiting, DrivesLater, Guard
from spanledger._inside import Inside
from spanledger.core.asking import Ask, Asking, Invoke, Step, Steps, Traced
from spanledger.core.call import EXECUTE_TOOL, Begun, Call, Ended, Holder, Outcome, Usage, Verdict
from spanledger.core.frozen import value
from spanledger.core.money import figure
from spanledger.core.refusals import verdict_of
from spanledger.core.rules import Rule
from spanledger.errors import SpanledgerError
from spanledger.telemetry import events, instruments, metrics, record, semconv
from spanledger.telemetry.quiet import quietly

T = TypeVar("T")


@value
class _Run:
    """An attempt that runs.

    Attributes:
        operation: What is done.
        span: Its trace id and span id.
        began_s: When it was let run, on the clock of `time.perf_counter`.
    """

    operation: str
    span: Traced | None
    began_s: float


# As long as somebody holds the answer; where the process dies, so does the entry.
_runs: weakref.WeakKeyDictionary[Holder, _Run] = weakref.WeakKeyDictionary()


def metered(guard: Guard) -> Guard:
    """Return a guard that counts what is asked through it."""
    return _MeteredGuard(
        guard.config,
        _Blocking(guard.blocking),
        _Awaiting(guard.awaiting),
        _Later(guard.later),
        guard.is_there,
    )


@quietly
def of_model_call(call: Call, usage: Usage, error: BaseException | None, took_s: float, chunk_s: float | None) -> None:
    """Record a model call that the provider was asked to answer.

    Args:
        call: What was asked for.
        usage: What the provider says that it took.
        error: With which it ended.
        took_s: Seconds from the request until all of the answer was there.
        chunk_s: Seconds from the request to the first chunk of a stream.
    """
    labels = _of_tokens(call, usage)
    if chunk_s is not None:
        metrics.measure(instruments.TIME_TO_FIRST_CHUNK, labels, chunk_s)
    failed = None if error is None else record.type_of(error)
    metrics.measure(instruments.OPERATION_DURATION, labels | {semconv.ERROR_TYPE: failed}, took_s)


@quietly
def of_tokens(call: Call, usage: Usage) -> None:
    """Record what a model call used, of which whoever counts the call itself is not told."""
    _of_tokens(call, usage)


def _of_tokens(call: Call, usage: Usage) -> dict[str, Any]:
    """Record what a model call used; return the labels of the call."""
    model = None if usage.model is None else metrics.bounded(usage.model)
    asked = (semconv.PROVIDER_NAME, semconv.SERVER_ADDRESS, semconv.SERVER_PORT)
    labels = metrics.of_call(call.operation, call.name) | {name: call.attributes.get(name) for name in asked}
    labels[semconv.RESPONSE_MODEL] = model
    for kind, tokens in (("input", usage.input_tokens), ("output", usage.output_tokens)):
        if tokens is not None:
            metrics.measure(instruments.TOKEN_USAGE, labels | {semconv.TOKEN_TYPE: kind}, tokens)
    return labels


class _MeteredGuard(Guard):
    """Counts as well what is refused before the ledger is asked."""

    __slots__ = ()

    def asking(self, call: Call, *, own: Rule | None = None, span: Traced | None = None) -> Asking:
        try:
            return super().asking(call, own=own, span=span)
        except SpanledgerError as error:
            _refused(error, {"tool": call.name, "operation": call.operation}, span)
            raise

    def left(self, asking: Asking) -> Asking | Inside:
        try:
            return super().left(asking)
        except SpanledgerError as error:
            _refused(error, asking.item(), _span_of(asking.item()))
            raise


class _Blocking:
    def __init__(self, drives: Drives) -> None:
        self._drives = drives

    def drive(self, steps: Steps[T], invoke: Callable[[Begun], Ended] | None = None) -> T:
        return self._drives.drive(_watched(steps), invoke)


class _Awaiting:
    def __init__(self, drives: DrivesAwaiting) -> None:
        self._drives = drives

    async def drive(self, steps: Steps[T], invoke: Callable[[Begun], Awaitable[Ended]] | None = None) -> T:
        return await self._drives.drive(_watched(steps), invoke)


class _Later:
    def __init__(self, drives: DrivesLater) -> None:
        self._drives = drives

    def drive(self, begun: Begun, steps: Steps[Outcome]) -> None:
        self._drives.drive(begun, _watched(steps))

    def flush(self, timeout_s: float) -> bool:
        return self._drives.flush(timeout_s)


def _watched(steps: Steps[T]) -> Steps[T]:
    """Watch steps, if anybody wants to know."""
    if metrics.recorded() or events.recorded():
        return _passed_on(steps, _Watch())
    return steps


def _passed_on(steps: Steps[T], watch: _Watch) -> Steps[T]:
    reply: Any = None
    error: BaseException | None = None
    try:
        while True:
            try:
                step = steps.send(reply) if error is None else steps.throw(error)
            except StopIteration as stop:
                watch.returned(stop.value)
                return stop.value  # type: ignore[no-any-return]
            reply, error = None, None
            watch.begins(step)
            asked_s = time.perf_counter()
            try:
                reply = yield step
            except GeneratorExit:
                raise
            except BaseException as raised:  # noqa: BLE001 - the steps decide, and raise it again
                error = raised
            watch.carried_out(step, error, time.perf_counter() - asked_s)
    except SpanledgerError as refusal:
        watch.refused(refusal)
        raise
    finally:
        # An exception that holds this frame would hold the answer, and so the claim, until a collection.
        del reply, error
        steps.close()


class _Watch:
    """What is seen of one call while a driver carries out its steps."""

    def __init__(self) -> None:
        self._item: Mapping[str, Any] | None = None
        self._started_s = time.perf_counter()
        self._ran_s: float | None = None

    @quietly
    def begins(self, step: Step) -> None:
        """A step is about to be carried out."""
        if isinstance(step, Ask) and step.function == "begin":
            self._item = step.item
        elif isinstance(step, Invoke) and self._item is not None:
            # Now: the process may not live to see the end.
            _answered(step.begun, self._item)

    @quietly
    def carried_out(self, step: Step, error: BaseException | None, took_s: float) -> None:
        """A step was carried out, or failed."""
        if isinstance(step, Ask):
            kind = None if error is None else type(error).__name__
            labels = {semconv.LEDGER_FUNCTION: step.function, semconv.ERROR_TYPE: kind}
            metrics.measure(instruments.LEDGER_DURATION, labels, took_s)
        elif isinstance(step, Invoke):
            self._ran_s = took_s

    @quietly
    def returned(self, value: Any) -> None:
        """The steps have come to their end."""
        if isinstance(value, Begun) and self._item is not None:
            _answered(value, self._item)
        elif isinstance(value, Outcome):
            if value.replayed and self._item is not None:
                _answered(value.begun, self._item)
            elif not value.replayed:
                _ended(value, self._ran_s, self._started_s)

    @quietly
    def refused(self, error: SpanledgerError) -> None:
        """The call was not let run."""
        if self._item is not None:
            _refused(error, self._item, _span_of(self._item))


def _answered(begun: Begun, item: Mapping[str, Any]) -> None:
    labels = metrics.of_call(item["operation"], item["tool"])
    metrics.count(instruments.CALLS, labels | {semconv.VERDICT: str(begun.verdict)})
    if begun.unguarded:
        metrics.count(instruments.UNGUARDED, labels)
    if begun.verdict is Verdict.RUN:
        _runs[begun.holder] = _Run(item["operation"], _span_of(item), time.perf_counter())
    elif begun.verdict is Verdict.REPLAY:
        for unit, steps in item["reserve"].items():
            if unit != "calls":
                metrics.count(instruments.SAVED, labels | {semconv.UNIT: unit}, figure(unit, steps))


def _ended(outcome: Outcome, ran_s: float | None, told_s: float) -> None:
    begun, ended = outcome.begun, outcome.ended
    run = _runs.pop(begun.holder, None)
    if run is None or ended.paused:
        return
    labels = metrics.of_call(run.operation, begun.tool)
    recorded = "late" if outcome.late else outcome.recorded or "lost"
    metrics.count(instruments.OUTCOMES, labels | {semconv.OUTCOME: recorded})
    if run.operation == EXECUTE_TOOL:
        error = None if ended.error is None else record.type_of(ended.error)
        error = "tool_error" if ended.failure is not None else error
        took_s = told_s - run.began_s if ran_s is None else ran_s
        metrics.measure(instruments.TOOL_DURATION, labels | {semconv.ERROR_TYPE: error}, took_s)
    if recorded in ("unknown", "lost"):
        attributes = labels | {semconv.CALL_KEY: begun.key, semconv.OUTCOME: recorded, semconv.ATTEMPT: begun.attempt}
        said = f"{begun.tool} may have taken effect, and nobody knows"
        events.warn(semconv.EVENT_OUTCOME_UNKNOWN, attributes, said, run.span)


@quietly
def _refused(error: SpanledgerError, item: Mapping[str, Any], span: Traced | None) -> None:
    labels = metrics.of_call(item["operation"], item["tool"])
    verdict = verdict_of(error)
    metrics.count(instruments.CALLS, labels | {semconv.VERDICT: verdict})
    attributes = labels | {
        semconv.VERDICT: verdict,
        semconv.REASON: str(error),
        semconv.CALL_KEY: error.key or item.get("key"),
        semconv.WORKFLOW_ID: item.get("workflow_id"),
        semconv.RULE: item.get("rule"),
        semconv.ERROR_TYPE: type(error).__name__,
    }
    events.warn(semconv.EVENT_REFUSED, attributes, f"{item['tool']} was not run: {error}", span)


def _span_of(item: Mapping[str, Any]) -> Traced | None:
    return Traced(item["trace_id"], item["span_id"]) if item.get("trace_id") and item.get("span_id") else None
