"""Model calls: traced always, asked about where a budget or a rule covers them, settled by what they used.

Rules: a model call is not replayed. It settles when its answer is read, and a stream when it is drained, broken or
dropped. After the provider has answered nothing of ours raises. The blocking and the awaiting form are alike but for
`await`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from opentelemetry.trace import Span

from spanledger.core.asking import Asking
from spanledger.core.call import Begun, Ended, Usage
from spanledger.core.settling import finished
from spanledger.core.steps import admitted
from spanledger.errors import SpanledgerError
from spanledger.guard import Guard
from spanledger.instrument._job import Job, NoCodec
from spanledger.instrument._prices import price
from spanledger.instrument._stream import Watcher, is_stream, watch
from spanledger.instrument.library import HiddenChunk, Wrap
from spanledger.telemetry import record

logger = logging.getLogger("spanledger.instrument")


class ModelCalls:
    """Makes model calls of this process."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard

    def ask(self, job: Job, function: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """Make a model call; it asks the ledger only where a budget or a rule covers it."""
        span = record.start(job.call, self.guard.config)
        asked: tuple[Asking, Begun] | None = None
        try:
            if self.guard.config.covers(job.call):
                asking = self._asking(job, span)
                asked = asking, self.guard.blocking.drive(admitted(asking))
                record.begun(span, asked[1])
            kwargs, hidden = _prepared(job, kwargs)
            watcher = self._watcher(job, span, asked, hidden)
            with record.current(span):
                result = function(**kwargs)
        except BaseException as error:
            self._failed(span, asked, error)
            raise
        self._answered(job, result, watcher)
        return result

    async def ask_awaiting(self, job: Job, function: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """Make a model call; it asks the ledger only where a budget or a rule covers it."""
        span = record.start(job.call, self.guard.config)
        asked: tuple[Asking, Begun] | None = None
        try:
            if self.guard.config.covers(job.call):
                asking = self._asking(job, span)
                asked = asking, await self.guard.awaiting.drive(admitted(asking))
                record.begun(span, asked[1])
            kwargs, hidden = _prepared(job, kwargs)
            watcher = self._watcher(job, span, asked, hidden)
            with record.current(span):
                result = await function(**kwargs)
        except BaseException as error:
            self._failed(span, asked, error)
            raise
        if asked is None:
            self._answered(job, result, watcher)
        else:
            await asyncio.to_thread(self._answered, job, result, watcher)
        return result

    # --- shared

    def _asking(self, job: Job, span: Span) -> Asking:
        asking = self.guard.asking(job.call, span=record.trace_of(span))
        record.asked(span, asking)
        return asking

    def _failed(self, span: Span, asked: tuple[Asking, Begun] | None, error: BaseException) -> None:
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


def _prepared(job: Job, kwargs: dict[str, Any]) -> tuple[dict[str, Any], HiddenChunk | None]:
    return job.wrap.prepare(dict(kwargs)) if job.wrap and job.wrap.prepare else (kwargs, None)


def _fold_of(wrap: Wrap | None) -> Callable[[Usage, Any], Usage]:
    return wrap.fold if wrap and wrap.fold else lambda usage, _chunk: usage
