"""Model calls: traced always, asked about where the configuration or the ledger has something on them, settled by use.

Rules: a model call is not replayed. It settles when its answer is read, and a stream when it is drained, broken or
dropped. One call to a provider is one call here, however many functions of libraries it passes. The blocking and the
awaiting form are alike but for `await`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry import context as otel_context

from spanledger._guard import Guard
from spanledger.core.call import Call
from spanledger.core.steps import admitted
from spanledger.instrument._controls import LedgerControls
from spanledger.instrument._under_way import UnderWay
from spanledger.instrument.library import Wrap
from spanledger.telemetry import model_spans


class ModelCalls:
    """Makes model calls of this process."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.controls = LedgerControls(guard)

    def ask(self, wrap: Wrap, call: Call, function: Callable[..., Any], request: dict[str, Any]) -> Any:
        """Make a model call; it asks the ledger only where something there or in the configuration covers it."""
        context = otel_context.get_current()
        if model_spans.INSIDE in context and model_spans.is_part(context, request):
            return function(**request)
        guard, span = self.guard, model_spans.start(call, context)
        made = UnderWay(guard, wrap, call, span, request)
        try:
            covered = guard.covers(call) or self.controls.cover(call)
            if covered is None:
                covered = guard.blocking.drive(self.controls.asked(call))
            if covered:
                made.admitted(guard.blocking.drive(admitted(made.asked())))
            if guard.config.rules:
                made.shown = model_spans.for_others(span, call, guard.config)
            entered = model_spans.enter(made, context)
            try:
                result = function(**made.prepared())
            except Exception as error:
                if (again := made.plain(error)) is None:
                    raise
                result = function(**again)
                made.taken_plain()
            finally:
                model_spans.leave(entered)
        except BaseException as error:
            made.end(error)
            raise
        return made.answered(result)

    async def ask_awaiting(self, wrap: Wrap, call: Call, function: Callable[..., Any], request: dict[str, Any]) -> Any:
        """Make a model call; it asks the ledger only where something there or in the configuration covers it."""
        context = otel_context.get_current()
        if model_spans.INSIDE in context and model_spans.is_part(context, request):
            return await function(**request)
        guard, span = self.guard, model_spans.start(call, context)
        made = UnderWay(guard, wrap, call, span, request)
        try:
            covered = guard.covers(call) or self.controls.cover(call)
            if covered is None:
                covered = await guard.awaiting.drive(self.controls.asked(call))
            if covered:
                made.admitted(await guard.awaiting.drive(admitted(made.asked())))
            if guard.config.rules:
                made.shown = model_spans.for_others(span, call, guard.config)
            entered = model_spans.enter(made, context)
            try:
                result = await function(**made.prepared())
            except Exception as error:
                if (again := made.plain(error)) is None:
                    raise
                result = await function(**again)
                made.taken_plain()
            finally:
                model_spans.leave(entered)
        except BaseException as error:
            await made.end_awaiting(error)
            raise
        return await made.answered_awaiting(result)
