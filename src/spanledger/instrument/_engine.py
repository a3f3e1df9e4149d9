"""The engine: one guarded and traced call, for any library.

Rules: telemetry fails open, the guard fails closed, and the two are visibly apart. A call that cannot be described is
refused where a rule is about it; else the ledger is asked by its name alone, and it runs if nothing there is about it.
The wrapped function is called at most once and its exceptions pass through as they are. The blocking and the awaiting
form are alike but for `await`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from opentelemetry.trace import Span

from spanledger._guard import Guard, RunningCall, over_after, running, stood_for, tell_outer
from spanledger._inside import Inside
from spanledger.core.asking import Asking
from spanledger.core.call import Begun, Ended, Outcome
from spanledger.core.obliging import also, obliged, passed_on
from spanledger.core.outcomes import no_coroutine
from spanledger.core.steps import guarded
from spanledger.errors import ApprovalPending, CallRefused, SpanledgerError
from spanledger.instrument._agents import AgentRuns
from spanledger.instrument._job import Job
from spanledger.instrument._models import ModelCalls
from spanledger.instrument._travel import asked_before, within
from spanledger.telemetry import gate, record

logger = logging.getLogger("spanledger.instrument")


# What to ask; or what stands for the call: the inside of the one around, or the one of the process it came from.
_Asked = Asking | Inside | RunningCall


class Engine:
    """Guards and traces calls in this process."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.models = ModelCalls(guard)
        self.agents = AgentRuns(guard.config)

    # --- tools

    def run(self, job: Job, function: Callable[[], Any]) -> Any:
        """Run a tool's function at most once."""
        with gate.inside(), within(job.travelled), gate.spanned(job.call) as span:
            try:
                asking: _Asked = self._asking(job, span)
                if isinstance(asking, Asking) and job.travelled:
                    asking = self.guard.blocking.drive(asked_before(asking, job.travelled))
                outcome = self._once(job, span, asking, function) if isinstance(asking, Asking) else None
            except SpanledgerError as error:
                return self._refused(job, span, error)
            if not isinstance(asking, Asking) or outcome is None:
                record.called(span, job.call, self.guard.config.content(job.call, job.own))
                with record.observed(span), self._standing(job, asking):
                    return function()
            tell_outer(asking, outcome)
            # What the function raised is no refusal, even where it is an error of ours from a call inside.
            return self._result(job, span, asking, outcome)

    async def run_awaiting(self, job: Job, function: Callable[[], Awaitable[Any]]) -> Any:
        """Run a tool's coroutine function at most once."""
        with gate.inside(), within(job.travelled), gate.spanned(job.call) as span:
            try:
                asking: _Asked = self._asking(job, span)
                if isinstance(asking, Asking) and job.travelled:
                    asking = await self.guard.awaiting.drive(asked_before(asking, job.travelled))
                outcome = await self._once_awaiting(job, span, asking, function) if isinstance(asking, Asking) else None
            except SpanledgerError as error:
                return self._refused(job, span, error)
            if not isinstance(asking, Asking) or outcome is None:
                record.called(span, job.call, self.guard.config.content(job.call, job.own))
                with record.observed(span), self._standing(job, asking):
                    return await function()
            tell_outer(asking, outcome)
            # What the function raised is no refusal, even where it is an error of ours from a call inside.
            return self._result(job, span, asking, outcome)

    def _once(self, job: Job, span: Span, asking: Asking, function: Callable[[], Any]) -> Outcome:
        def invoke(begun: Begun) -> Ended:
            held = self._begun(job, span, asking, begun)
            with running(held, begun) as ran, record.current(span):
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
            held = self._begun(job, span, asking, begun)
            with running(held, begun) as ran, record.current(span):
                try:
                    return job.ended(await function(), ran)
                except BaseException as error:  # noqa: BLE001 - raised again by `_result`
                    return job.raised(error, ran)

        return await self.guard.awaiting.drive(guarded(asking, job.codec), invoke)

    # --- shared

    def _begun(self, job: Job, span: Span, asking: Asking, begun: Begun) -> Asking:
        """The call runs now, with the arguments that may be passed on: for what is inside, these are its arguments."""
        held = obliged(asking, begun)
        record.called(span, held.call, held.content)
        record.begun(span, begun)
        job.begun(begun)
        arguments = passed_on(held) if job.takes is not None and held.obliged else None
        if job.takes is None or arguments is None or arguments is held.call.arguments:
            return held
        job.takes(arguments)
        inner = self.guard.config.asking(replace(held.call, arguments=arguments), attempt_id=held.attempt_id)
        return replace(held, identity=replace(held.identity, fingerprint=inner.identity.fingerprint))

    def _standing(self, job: Job, asking: _Asked) -> AbstractContextManager[Any]:
        """Where the call around stands for this one, in this process or another: until it is over."""
        if isinstance(asking, RunningCall):
            return over_after(asking)
        if isinstance(asking, Inside):
            return stood_for(asking, self.guard.config.terms(job.call, job.own))
        return contextlib.nullcontext()

    def _asking(self, job: Job, span: Span) -> _Asked:
        """Describe a call to the ledger.

        Returns:
            What to ask. Or the inside of the call around, which has asked for this one.
        """
        asking = self.guard.asking(job.call, own=job.own, span=record.trace_of(span))
        left = self.guard.left(asking)
        if not isinstance(left, Asking):
            return left
        record.asked(span, left)
        # On a span that its library has made, the library writes as well.
        return replace(left, obliged=()) if gate.is_ours(span) else left

    def _result(self, job: Job, span: Span, asking: Asking, outcome: Outcome) -> Any:
        held = obliged(asking, outcome.begun)
        if outcome.replayed:
            record.called(span, held.call, held.content)
            record.begun(span, outcome.begun)
        record.finished(span, outcome, held.content)
        if outcome.ended.error is not None:
            return self._stopped(job, outcome.ended.error)
        return outcome.ended.value

    def _refused(self, job: Job, span: Span, error: SpanledgerError) -> Any:
        if error._redact is not None:  # noqa: SLF001 - our own class
            content = self.guard.config.content(job.call, job.own)
            record.called(span, job.call, also(content, error._redact, job.call.arguments))  # noqa: SLF001
        if isinstance(error, ApprovalPending) and job.pause:
            record.refused(span, error, suspended=True)
            raise job.pause.suspend(error) from error
        record.refused(span, error)
        terms = self.guard.config.terms(job.call, job.own)
        told = isinstance(error, CallRefused) and terms.on_refusal == "tell"
        error._on_refusal = "tell" if told else "raise"  # noqa: SLF001 - our own class
        return self._stopped(job, error)

    def _stopped(self, job: Job, error: BaseException) -> Any:
        """Raise an error; where it is a refusal of ours, as its rule and the framework want it."""
        if job.wrap is None or not isinstance(error, SpanledgerError):
            raise error
        if job.tell and error._on_refusal == "tell":  # noqa: SLF001 - our own class
            return job.tell(job.call, error)
        raise job.wrap.stop(error) if job.wrap.stop else error
