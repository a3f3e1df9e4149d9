"""What a model call reserves before it runs, and what it is charged when it ends.

Rules: what is reserved is a bound from above, in tokens and in money: what the request can have the model read
(`_bounds`), and the most the model may write: the request's own maximum, else the configuration's, else all that the
model can handle. A budget that needs a bound which nobody knows refuses the call and says how to give one.

    answered, and usage reported    what was reported
    answered, no usage reported     what was reserved stays spent
    ended early, or nobody knows    the input, as reported or its bound, and what was seen of the output, byte for token
    certainly not answered          nothing: what was reserved is released
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from spanledger.config import Config
from spanledger.core.call import Call, Usage
from spanledger.core.money import AMOUNT_MAX, CALLS, TOKENS
from spanledger.core.prices import Bound, price_for
from spanledger.errors import BudgetExceeded, SpanledgerError, Undescribable
from spanledger.instrument._prices import price, tariff_of

REPORTED, ESTIMATED, RESERVED = "reported", "estimated", "reserved"


@dataclass(frozen=True, slots=True)
class Reserved:
    """What one model call reserves.

    Attributes:
        amounts: Unit → steps; without units in which no bound is known and no budget needs one.
        input_tokens: The bound of what it reads; None where it is not known.
        names_no_maximum: The request does not say how much the model may write.
    """

    amounts: Mapping[str, int] = field(default_factory=dict)
    input_tokens: int | None = None
    names_no_maximum: bool = False

    def explain(self, error: SpanledgerError) -> None:
        """Say with a refusal what could be done about it."""
        if isinstance(error, BudgetExceeded) and error.requested.unit != CALLS and self.names_no_maximum:
            error.add_note(
                "The request names no maximum of output tokens, so all that the model can write had to be reserved: "
                "name one in the request, or set output_tokens_max in the configuration."
            )


def reserved(call: Call, bound: Bound | None, config: Config, given: Mapping[str, int]) -> Reserved:
    """Say what a model call reserves.

    Args:
        call: The call.
        bound: What its request says.
        config: Prices, limits and budgets.
        given: Unit → steps that a rule reserves; they stand.

    Raises:
        Undescribable: A budget needs a bound that nobody knows.
    """
    amounts, tokens = dict(given), (None, None) if bound is None else _tokens(call, bound, config)
    read, written = tokens
    tariff = tariff_of(call, config.prices)
    if bound is not None and read is not None and written is not None:
        amounts = {TOKENS: min(read + written, AMOUNT_MAX)} | amounts
        if tariff is not None:
            most = tariff.most(read, written, writes_cache=bound.writes_cache)
            amounts = {most.unit: most.steps} | amounts
    for budget in config.budgets:
        unit = budget.limit.unit
        if unit == CALLS or not budget.covers(call):
            continue
        known = unit in amounts if unit == TOKENS else amounts.keys() - {TOKENS, CALLS}
        if not known and config.mode != "shadow":
            raise Undescribable(_why(call, budget.name, unit, tokens, priced=tariff is not None))
    return Reserved(amounts, read, bound is not None and bound.output_tokens is None)


def charged(call: Call, usage: Usage, config: Config) -> dict[str, int]:
    """Say what the reported usage costs, as unit → steps; a unit whose cost is not known stays as reserved."""
    if not usage.reported:
        return {}
    cost = price(call, usage, config.prices)
    return {TOKENS: usage.tokens} | ({cost.unit: cost.steps} if cost else {})


def estimated(call: Call, usage: Usage, seen_bytes: int, reserve: Reserved, config: Config) -> dict[str, int]:
    """Say what a call that ended early costs, by what is known of it; at most what it reserved."""
    read = usage.input_tokens if usage.input_tokens is not None else reserve.input_tokens
    if read is None:
        return {}
    known = replace(usage, input_tokens=read, output_tokens=max(usage.output_tokens or 0, seen_bytes))
    return {unit: min(steps, reserve.amounts.get(unit, steps)) for unit, steps in charged(call, known, config).items()}


def _tokens(call: Call, bound: Bound, config: Config) -> tuple[int | None, int | None]:
    """The most tokens that are read and written; None for what nobody knows."""
    said = price_for(config.prices, call.name)
    tariff = tariff_of(call, config.prices)
    handled = None if tariff is None else tariff.tokens_max
    read = bound.input_tokens
    if read is None:
        read = said.input_tokens_max if said and said.input_tokens_max else handled
    written = bound.output_tokens
    if written is None:
        each = (said.output_tokens_max if said else None) or config.output_tokens_max or handled
        written = None if each is None else each * bound.choices
    return read, written


def _why(call: Call, budget: str, unit: str, tokens: tuple[int | None, int | None], *, priced: bool) -> str:
    cannot = f"budget {budget!r} cannot admit {call.name!r}: "
    if tokens[0] is None:
        return (
            f"{cannot}what it reads is not in its request, and how much that may be is not known. Say it in the "
            f"configuration: Price({call.name!r}, input_tokens_max=…)"
        )
    if tokens[1] is None:
        return (
            f"{cannot}it names no maximum of output tokens, and how many the model can write is not known. Name one in "
            f"the request, or in the configuration: Price({call.name!r}, output_tokens_max=…)"
        )
    assert unit != TOKENS and not priced  # noqa: PT018, S101 - nothing else can be missing
    return (
        f"{cannot}its price is not known. Give it in the configuration: Price({call.name!r}, input=Money(…), "
        f"output=Money(…)), or same_as='a model of the public lists', or reserve a fixed amount: "
        f"Rule({call.name!r}, reserve=Money(…)). Public prices need spanledger[prices]"
    )
