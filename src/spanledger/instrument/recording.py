"""Recording what a program has done by itself: calls of models and tools that nothing of ours has made, and events.

Rules: what is recorded has happened, so nothing is refused, and what it cost counts as spent: a budget that it exceeds
says so in the ledger's history and refuses the next guarded call. Nobody waits: spans are made at once, the ledger is
told in the background, and what is lost on the way is counted and logged. Only what is wrong in every run is raised, at
once: no name, an amount that is none, tokens or seconds below nothing. What cannot be written as JSON is written as
text. A call that an instrumented client has made is counted already and not once more.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from spanledger._guard import ambient
from spanledger.core.call import EXECUTE_TOOL, TOKEN_KINDS, Call, Usage
from spanledger.core.content import Content
from spanledger.core.frozen import value
from spanledger.core.keys import report_of
from spanledger.core.money import Amount, Calls, Money, Tokens
from spanledger.core.trail import within_limits
from spanledger.instrument import _counted, _messages, _runtime
from spanledger.instrument._engine import Engine
from spanledger.instrument._reserve import charged
from spanledger.placing import placed_in
from spanledger.telemetry import metering, recorded, semconv, trail
from spanledger.telemetry.recorded import Made

logger = logging.getLogger("spanledger.instrument")

OPERATIONS: Final = ("chat", "text_completion", "generate_content", "embeddings")


@value
class _Said:
    """What the program says of a call."""

    call: Call
    usage: Usage
    cost: Amount | None
    latency_s: float
    error: BaseException | Mapping[str, str] | str | None
    record_id: str | None
    result: Any = None
    prompt: str | None = None
    response: str | None = None
    budgeted: bool = True


def record_llm_call(
    model: str,
    usage: Usage | None = None,
    *,
    prompt: str | None = None,
    response: str | None = None,
    provider: str | None = None,
    operation: str = "chat",
    cost: Money | None = None,
    latency_s: float = 0.0,
    error: BaseException | str | None = None,
    record_id: str | None = None,
) -> str | None:
    """Record a call of a model that your program has made by itself.

    Args:
        model: The model that was asked for.
        usage: What its provider reported.
        prompt: What it was asked; recorded where content is captured, without what rules redact.
        response: What it answered; likewise.
        provider: Its name, as the conventions spell it: ``"openai"``, ``"anthropic"``, …
        operation: ``"chat"``, ``"text_completion"``, ``"generate_content"`` or ``"embeddings"``.
        cost: What it cost; None: by the prices of the configuration, else of `genai-prices`.
        latency_s: Seconds that it took.
        error: Why it failed; what it cost counts all the same.
        record_id: Recorded again under this id it counts once; None: each time is another call.

    Returns:
        The key of its row in the ledger; None in mode "off", or where an instrumented client has recorded it already.

    Raises:
        TypeError: A name, the usage or an amount is none.
        ValueError: A name is empty, the operation is not known, or tokens or seconds are less than nothing.
    """
    _check_name("a model", model)
    if operation not in OPERATIONS:
        raise ValueError(f"operation is one of {', '.join(OPERATIONS)}, not {operation!r}")
    usage = _checked_usage(usage)
    _check_amount(cost, Money)
    attributes = {} if provider is None else {semconv.PROVIDER_NAME: provider}
    call = Call(model, operation=operation, attributes=attributes)
    said = _Said(call, usage, cost, _checked_s(latency_s), error, record_id, prompt=prompt, response=response)
    return _recorded(said)


def record_tool_call(
    tool: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    result: Any = None,
    cost: Amount | None = None,
    latency_s: float = 0.0,
    error: BaseException | str | None = None,
    call_id: str | None = None,
    record_id: str | None = None,
) -> str | None:
    """Record a call of a tool that your program has made by itself; to have it made once, use `tool` or `tool_call`.

    Args:
        tool: The tool's name.
        arguments: What it was called with; kept for people to read, as of guarded calls.
        result: What it returned; on the span only, where content is captured.
        cost: What it cost.
        latency_s: Seconds that it took.
        error: Why it failed; what it cost counts all the same.
        call_id: The id that the model's provider gave to the call.
        record_id: Recorded again under this id it counts once; None: each time is another call.

    Returns:
        The key of its row in the ledger; None in mode "off".

    Raises:
        TypeError: A name, the arguments or an amount are none.
        ValueError: A name is empty, or seconds are less than nothing.
    """
    _check_name("a tool", tool)
    if arguments is not None and not isinstance(arguments, Mapping):
        raise TypeError(f"arguments are a mapping of names to values, not {arguments!r:.80}")
    _check_amount(cost, Money | Tokens | Calls)
    call = Call(tool, arguments=arguments, call_id=call_id)
    return _recorded(_Said(call, Usage(), cost, _checked_s(latency_s), error, record_id, result))


def tell_call(call: Call, took_s: float, error: Mapping[str, str] | None) -> None:
    """Tell a call of a tool that something of ours has seen, as `record_tool_call` does; it is in no budget.

    Args:
        call: The call.
        took_s: Seconds that it took.
        error: Type and message of what went wrong, as people may read them.
    """
    _recorded(_Said(call, Usage(), None, took_s, error, None, budgeted=False))


def record_event(name: str, detail: Mapping[str, Any] | None = None) -> None:
    """Record that something happened, in words of your own: on the span around this code and in the decision trace.

    Args:
        name: What happened, for example ``"escalated"``.
        detail: What else there is to say, by name.

    Raises:
        TypeError: The name or the detail is none.
        ValueError: The name is empty.
    """
    _check_name("an event", name)
    if detail is not None and not isinstance(detail, Mapping):
        raise TypeError(f"detail is a mapping of names to values, not {detail!r:.80}")
    tell_event(name, detail or {})


def tell_event(name: str, detail: Mapping[str, Any], key: str | None = None) -> None:
    """Tell that something happened, as `record_event` does; with the key of the call that runs here, in that."""
    if _runtime.engine() is None:
        return
    try:
        recorded.event(name, within_limits(detail), key)
    except Exception as error:  # noqa: BLE001 - counted and logged; nothing else is affected
        trail.lose(f"event {name!r:.80} cannot be written: {type(error).__name__}: {error}")


def _recorded(said: _Said) -> str | None:
    engine = _runtime.engine()
    if engine is None or (said.usage.reported and _counted.take(said.usage)):
        return None
    try:
        return _tell(engine, said)
    except Exception as error:  # noqa: BLE001 - counted and logged; nothing else is affected
        trail.lose(f"a call of {said.call.name!r:.80} cannot be recorded: {type(error).__name__}: {error}")
        return None


def _tell(engine: Engine, said: _Said) -> str:
    config = engine.guard.config
    placed = placed_in(said.call, ambient(), trust_baggage=config.trust_baggage)
    asking = _counted.described(config, placed)
    call, content = asking.call, asking.content
    report = report_of(
        asking.tenant,
        said.record_id or asking.attempt_id,
        None if config.secret is None else config.secret.encode(),
    )
    cost = charged(call, said.usage, config)
    if said.cost is not None:
        cost = {unit: steps for unit, steps in cost.items() if unit == "tokens"} | {said.cost.unit: said.cost.steps}
    error = _error(said.error, content)
    messages = _messages.told(said.prompt, said.response, call, config)
    made = Made(asking, report, said.usage, cost, said.latency_s, said.result, error, messages, config.message_capture)
    if not said.budgeted:
        made = replace(made, budgeted=False)
    if call.operation != EXECUTE_TOOL:
        made = replace(made, event=config.tells_model_calls)
    span = recorded.show(made)
    recorded.tell(made, span, ambient())
    if call.operation != EXECUTE_TOOL:
        failed = said.error if isinstance(said.error, BaseException) or said.error is None else RuntimeError()
        metering.of_model_call(call, said.usage, failed, said.latency_s, None)
    return made.key


def _error(error: BaseException | Mapping[str, str] | str | None, content: Content) -> Mapping[str, str] | None:
    if error is None or isinstance(error, Mapping):
        return error
    if isinstance(error, BaseException):
        return content.error(error)
    return {"type": "error", "message": content.words(str(error))[:2000]}


def _check_name(what: str, name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{what} has a text as its name, not {name!r:.80}")
    if not name:
        raise ValueError(f"{what} has a name that is not empty")


def _check_amount(cost: object, kinds: Any) -> None:
    if cost is not None and not isinstance(cost, kinds):
        raise TypeError(f"a cost is an amount, for example Money('0.02', 'USD'), not {cost!r:.80}")


def _checked_usage(usage: Usage | None) -> Usage:
    if usage is None:
        return Usage()
    if not isinstance(usage, Usage):
        raise TypeError(f"usage is a Usage, for example Usage(input_tokens=12, output_tokens=5), not {usage!r:.80}")
    for name in TOKEN_KINDS:
        tokens = getattr(usage, name)
        if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0):
            raise ValueError(f"{name} is a number of tokens, not {tokens!r:.80}")
    return usage


def _checked_s(latency_s: float) -> float:
    if isinstance(latency_s, bool) or not isinstance(latency_s, int | float):
        raise TypeError(f"latency_s is a number of seconds, not {latency_s!r:.80}")
    if not math.isfinite(latency_s) or latency_s < 0:
        raise ValueError(f"latency_s is a number of seconds, not {latency_s!r:.80}")
    return float(latency_s)
