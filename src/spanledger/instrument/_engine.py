"""The engine: one guarded and traced call, for any library.

Rules: telemetry fails open, the guard fails closed, and the two are visibly apart. A call that nobody asked to guard
and that cannot be described just runs; a guarded one is refused. The wrapped function is called at most once and
its exceptions pass through as they are. The blocking and the awaiting form are alike but for `await`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry.trace import Span

from spanledger.core.asking import Asking
from spanledger.core.call import EXECUTE_TOOL, Begun, Call, Codec, Ended, Outcome, Usage
from spanledger.core.outcomes import no_coroutine
from spanledger.core.rules import Rule
from spanledger.core.settling import finished
from spanledger.core.steps import admitted, guarded
from spanledger.errors import CallRefused, SpanledgerError, Undescribable
from spanledger.guard import Guard, Inside, RunningCall, running, stood_for, tell_outer
from spanledger.instrument._prices import price
from spanledger.instrument._stream import Watcher, is_stream, watch
from spanledger.instrument.library import HiddenChunk, Wrap
from spanledger.telemetry import gate, record

logger = logging.getLogger("spanledger.instrument")


class NoCodec:
    """For results that cannot be kept."""

    def encode(self, result: Any) -> Any:
        """Refuse to keep a result."""
        raise TypeError(f"nothing is known about keeping a {type(result).__qualname__}")

    def decode(self, tree: Any, call: Call) -> Any:
        """Never called: nothing was kept."""
        raise TypeError(f"{call.name} has no kept result, yet one was found: {tree!r:.80}")


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One call on its way through the engine.

    Attributes:
        call: The call.
        codec: How its result is kept.
        own: What the developer gave at the tool itself.
        wrap: Where it came from; None for a tool of the developer's own.
    """

    call: Call
    codec: Codec
    own: Rule | None = None
    wrap: Wrap | None = None

    def ended(self, value: Any, ran: RunningCall) -> Ended:
        """Say how a function that returned `value` ended."""
        failure = None
        if self.wrap and self.wrap.failure:
            try:
                failure = self.wrap.failure(value)
            except Exception:
                # The side effect has happened and the caller gets its result.
                logger.exception("whether %s failed cannot be told", self.call.name)
        hidden = ran.inside.hidden
        if hidden is not None:
            failure = failure or str(hidden) or type(hidden).__name__
        cost = ran.cost(succeeded=failure is None)
        return Ended(value, failure=failure, hidden=hidden, doubtful=ran.inside.doubtful, cost=cost)

    def raised(self, error: BaseException, ran: RunningCall) -> Ended:
        """Say how a function that raised `error` ended."""
        names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__}
        paused = bool(self.wrap and names & set(self.wrap.pauses))
        return Ended(error=error, paused=paused, doubtful=ran.inside.doubtful, cost=ran.cost(succeeded=False))


class Engine:
    """Guards and traces calls in this process."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard

    # --- tools

    def run(self, job: Job, function: Callable[[], Any]) -> Any:
        """Run a tool's function at most once."""
        with gate.inside(), record.ending(record.start(job.call, self.guard.config)) as span:
            try:
                asking = self._asking(job, span)
                outcome = self._once(job, span, asking, function) if isinstance(asking, Asking) else None
            except SpanledgerError as error:
                return self._refused(job, span, error)
            if not isinstance(asking, Asking) or outcome is None:
                with record.observed(span), self._standing(job, asking):
                    return function()
            tell_outer(asking, outcome)
            # What the function raised is no refusal, even where it is an error of ours from a call inside.
            return self._result(span, outcome)

    async def run_awaiting(self, job: Job, function: Callable[[], Awaitable[Any]]) -> Any:
        """Run a tool's coroutine function at most once."""
        with gate.inside(), record.ending(record.start(job.call, self.guard.config)) as span:
            try:
                asking = self._asking(job, span)
                outcome = await self._once_awaiting(job, span, asking, function) if isinstance(asking, Asking) else None
            except SpanledgerError as error:
                return self._refused(job, span, error)
            if not isinstance(asking, Asking) or outcome is None:
                with record.observed(span), self._standing(job, asking):
                    return await function()
            tell_outer(asking, outcome)
            # What the function raised is no refusal, even where it is an error of ours from a call inside.
            return self._result(span, outcome)

    def _once(self, job: Job, span: Span, asking: Asking, function: Callable[[], Any]) -> Outcome:
        def invoke(begun: Begun) -> Ended:
            record.begun(span, begun)
            with running(asking, begun) as ran, record.current(span):
                try:
                    value = function()
                    return job.ended(no_coroutine(job.call.name, value) if asking.terms.guarded else value, ran)
                except BaseException as error:  # noqa: BLE001 - raised again by `_result`
                    return job.raised(error, ran)

        return self.guard.blocking.drive(guarded(asking, job.codec), invoke)

    async def _once_awaiting(
        self, job: Job, span: Span, asking: Asking, function: Callable[[], Awaitable[Any]]
    ) -> Outcome:
        async def invoke(begun: Begun) -> Ended:
            record.begun(span, begun)
            with running(asking, begun) as ran, record.current(span):
                try:
                    return job.ended(await function(), ran)
                except BaseException as error:  # noqa: BLE001 - raised again by `_result`
                    return job.raised(error, ran)

        return await self.guard.awaiting.drive(guarded(asking, job.codec), invoke)

    # --- models

    def ask_model(self, job: Job, function: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """Make a model call; it asks the ledger only where a budget or a rule covers it."""
        span = record.start(job.call, self.guard.config)
        asked: tuple[Asking, Begun] | None = None
        try:
            if self.guard.config.covers(job.call):
                asking = self._model_asking(job, span)
                asked = asking, self.guard.blocking.drive(admitted(asking))
                record.begun(span, asked[1])
            kwargs, hidden = _prepared(job, kwargs)
            watcher = self._watcher(job, span, asked, hidden)
            with record.current(span):
                result = function(**kwargs)
        except BaseException as error:
            self._model_failed(span, asked, error)
            raise
        self._answered(job, result, watcher)
        return result

    async def ask_model_awaiting(self, job: Job, function: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """Make a model call; it asks the ledger only where a budget or a rule covers it."""
        span = record.start(job.call, self.guard.config)
        asked: tuple[Asking, Begun] | None = None
        try:
            if self.guard.config.covers(job.call):
                asking = self._model_asking(job, span)
                asked = asking, await self.guard.awaiting.drive(admitted(asking))
                record.begun(span, asked[1])
            kwargs, hidden = _prepared(job, kwargs)
            watcher = self._watcher(job, span, asked, hidden)
            with record.current(span):
                result = await function(**kwargs)
        except BaseException as error:
            self._model_failed(span, asked, error)
            raise
        if asked is None:
            self._answered(job, result, watcher)
        else:
            await asyncio.to_thread(self._answered, job, result, watcher)
        return result

    # --- agents

    def trace(self, job: Job, function: Callable[[], Any]) -> Any:
        """Run an agent under a span."""
        with record.ending(record.start(job.call, self.guard.config)) as span, record.observed(span):
            return function()

    async def trace_awaiting(self, job: Job, function: Callable[[], Awaitable[Any]]) -> Any:
        """Run an agent under a span."""
        with record.ending(record.start(job.call, self.guard.config)) as span, record.observed(span):
            return await function()

    # --- shared

    def _standing(self, job: Job, asking: object) -> AbstractContextManager[None]:
        """Where the call around stands for this one: until it is over."""
        if isinstance(asking, Inside):
            return stood_for(asking, self.guard.config.terms(job.call, job.own))
        return contextlib.nullcontext()

    def _asking(self, job: Job, span: Span) -> Asking | Inside | None:
        """Describe a call to the ledger.

        Returns:
            What to ask. Or the inside of the call around, which has asked for this one; or None where the call cannot
            be described and nobody asked to guard it.
        """
        try:
            asking = self.guard.asking(job.call, own=job.own, span=record.trace_of(span))
        except Undescribable:
            if job.call.opted_in or self.guard.config.covers(job.call):
                raise
            logger.warning("%s runs unguarded: it cannot be described", job.call.name, exc_info=True)
            return None
        left = self.guard.left(asking)
        if isinstance(left, Asking):
            record.asked(span, left)
        return left

    def _model_asking(self, job: Job, span: Span) -> Asking:
        asking = self.guard.asking(job.call, span=record.trace_of(span))
        record.asked(span, asking)
        return asking

    def _result(self, span: Span, outcome: Outcome) -> Any:
        if outcome.replayed:
            record.begun(span, outcome.begun)
        record.finished(span, outcome, capture_content=self.guard.config.capture_content)
        if outcome.ended.error is not None:
            raise outcome.ended.error
        return outcome.ended.value

    def _refused(self, job: Job, span: Span, error: SpanledgerError) -> Any:
        record.refused(span, error)
        terms = self.guard.config.terms(job.call, job.own)
        if isinstance(error, CallRefused) and terms.on_refusal == "tell" and job.wrap and job.wrap.tell:
            return job.wrap.tell(job.call, error)
        raise error

    def _model_failed(self, span: Span, asked: tuple[Asking, Begun] | None, error: BaseException) -> None:
        if asked is None and isinstance(error, SpanledgerError):
            record.refused(span, error)
        else:
            self._settle(span, asked, Ended(error=error))
            record.failed(span, error)
        record.end(span)

    def _watcher(self, job: Job, span: Span, asked: tuple[Asking, Begun] | None, hidden: HiddenChunk | None) -> Watcher:
        """Make what adds up the answer to a model call and settles it; its clock starts now."""

        def ended(usage: Usage, first_chunk_s: float | None, error: BaseException | None) -> None:
            cost = price(job.call, usage)
            costs = {"tokens": usage.tokens} | ({cost.unit: cost.steps} if cost else {})
            record.used(span, usage, cost=str(cost) if cost else None, first_chunk_s=first_chunk_s)
            self._settle(span, asked, Ended(error=error, cost=costs))
            if error is not None:
                record.failed(span, error)
            record.end(span)

        return Watcher(_fold_of(job.wrap), hidden, ended)

    def _answered(self, job: Job, result: Any, watcher: Watcher) -> None:
        try:
            self._measure(job.wrap, result, watcher)
        except Exception:
            # The provider has answered and will be paid: whatever we cannot read, the caller can.
            logger.exception("the answer to %s could not be measured", job.call.name)
            watcher.end()

    def _measure(self, wrap: Wrap | None, result: Any, watcher: Watcher) -> None:
        seen = wrap.parsed(result) if wrap and wrap.parsed else result
        if is_stream(seen):
            watch(seen, watcher)
            return
        if wrap and wrap.measure and seen is not None:
            watcher.measured(wrap.measure(seen))
        watcher.end()

    def _settle(self, span: Span, asked: tuple[Asking, Begun] | None, ended: Ended) -> None:
        # Blocking also under a loop: a stream may be dropped where nothing can be awaited.
        if asked is None:
            return
        try:
            record.finished(span, self.guard.blocking.drive(finished(*asked, ended, NoCodec())))
        except Exception:
            logger.exception("the outcome of %s could not be recorded", asked[0].call.name)


def job_for(wrap: Wrap, call: Call) -> Job:
    """Make a job of a described call."""
    return Job(call, wrap.codec or NoCodec(), wrap=wrap)


def is_tool(wrap: Wrap) -> bool:
    """Tell whether a wrap is of a tool."""
    return wrap.operation == EXECUTE_TOOL


def _prepared(job: Job, kwargs: dict[str, Any]) -> tuple[dict[str, Any], HiddenChunk | None]:
    return job.wrap.prepare(dict(kwargs)) if job.wrap and job.wrap.prepare else (kwargs, None)


def _fold_of(wrap: Wrap | None) -> Callable[[Usage, Any], Usage]:
    return wrap.fold if wrap and wrap.fold else lambda usage, _chunk: usage
