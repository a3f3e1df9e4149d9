"""What model calls cost, by what the configuration says, else by the public lists of `genai-prices` where installed.

Rules: an unknown model has no price; none is guessed. Public prices are in US dollars and those of the standard tier;
what comes out is an estimate, not an invoice. The dearest an answer could get is rounded up, what it cost to the
nearest millionth. A price per million tokens in units of a currency is one per token in its millionths, and is kept
as an integer of a part of one, so small that no listed price is rounded and no smaller: a sum of small integers costs a
fraction of one of decimals, and every call has one.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple, TypeVar

from spanledger.core.call import Call, Usage
from spanledger.core.money import AMOUNT_MAX, EXACT, Money, money_text
from spanledger.core.prices import Price, price_for
from spanledger.telemetry import semconv

logger = logging.getLogger("spanledger.instrument")

T = TypeVar("T")

# Some prices depend on the time of day; they change on the quarter hour.
_PRICES_LAST_S = 900
_TARIFF = "instrument.prices.tariff"
_PROVIDERS = {"azure.ai.openai": "azure", "aws.bedrock": "aws", "gcp.vertex_ai": "google"}

# So many parts of a millionth are the unit that prices are read in; lists have up to 18 decimal places.
_PARTS = 10**18

# The parts that a token costs, by the number of input tokens from which it applies; the first is from none.
_Steps = tuple[tuple[int, int], ...]
_FREE: _Steps = ((-1, 0),)


class Rates(NamedTuple):
    """The parts that a token costs.

    Attributes:
        input: One that is read.
        output: One that is written.
        cached: One that is read from a cache.
        cache_written: One that is put into one.
        cache_written_1h: One that is put into one for an hour.
    """

    input: int
    output: int
    cached: int
    cache_written: int
    cache_written_1h: int


@dataclass(frozen=True, slots=True)
class Tariff:
    """What the tokens of one model cost.

    Attributes:
        currency: The currency of all prices.
        parts: So many parts of a millionth are the unit of its prices.
        rates: Rates, by the number of input tokens from which they apply; the first are from none.
        per_call: The parts that the call itself costs.
        tokens_max: The most tokens that the model can handle at once; None where that is not known.
    """

    currency: str
    parts: int
    rates: tuple[tuple[int, Rates], ...]
    per_call: int = 0
    tokens_max: int | None = None

    def cost(self, usage: Usage) -> Money:
        """What an answer cost."""
        return Money.of_micros(self.micros(usage), self.currency)

    def micros(self, usage: Usage) -> int:
        """What an answer cost, in millionths of the currency."""
        read, cached, written = usage.input_tokens or 0, usage.cached_tokens or 0, usage.cache_written_tokens or 0
        rates = self.rates[0][1] if len(self.rates) == 1 else _at(self.rates, read)
        per_input, per_output, per_cached, per_written, per_written_1h = rates
        cost = self.per_call + cached * per_cached + (usage.output_tokens or 0) * per_output
        if read > cached + written:
            cost += (read - cached - written) * per_input
        if written:
            written_1h = usage.cache_written_1h_tokens or 0
            cost += (written - written_1h) * per_written + written_1h * per_written_1h
        return min((cost + self.parts // 2) // self.parts, AMOUNT_MAX)

    def most(self, input_tokens: int, output_tokens: int, *, writes_cache: bool) -> Money:
        """The most that an answer can cost."""
        # With fewer tokens than the bound lower rates may apply, and they need not be the cheaper ones.
        known = [rates for start, rates in self.rates if input_tokens > start]
        read = max(max(one.input, one.cached, *(one[3:] if writes_cache else ())) for one in known)
        parts = self.per_call + input_tokens * read + output_tokens * max(one.output for one in known)
        return Money.of_micros(min(-(-parts // self.parts), AMOUNT_MAX), self.currency)


def tariff_of(call: Call, prices: Iterable[Price], model: str | None = None) -> Tariff | None:
    """Find what a model costs; what was found is kept with the call for as long as prices last.

    Args:
        call: The call.
        prices: What the configuration says.
        model: The model that answered, which public lists may know better than the name it was asked for by.
    """
    quarter = time.time() // _PRICES_LAST_S
    known = call.memo.get(_TARIFF)
    if known is not None and known[0] == quarter and known[1] == model and known[2] is prices:
        return known[3]  # type: ignore[no-any-return]
    found = _found(call, prices, model, int(quarter))
    call.memo[_TARIFF] = quarter, model, prices, found
    return found


def _found(call: Call, prices: Iterable[Price], model: str | None, quarter: int) -> Tariff | None:
    said = price_for(prices, call.name) if prices else None
    if said is not None and said.input is not None and said.output is not None:
        return _configured(said)
    attributes = call.attributes
    provider, address = attributes.get(semconv.PROVIDER_NAME), attributes.get(semconv.SERVER_ADDRESS)
    if said is not None and said.same_as:
        return _public(provider, address, said.same_as, quarter)
    found = _public(provider, address, model, quarter) if model else None
    return _public(provider, address, call.name, quarter) if found is None else found


def price(call: Call, usage: Usage, prices: Iterable[Price] = ()) -> Money | None:
    """Return what a call cost, or None where that is not known."""
    if not usage.reported:
        return None
    try:
        tariff = tariff_of(call, prices, usage.model)
        return None if tariff is None else tariff.cost(usage)
    except Exception:
        logger.exception("no price for %s", call.name)
        return None


def price_text(call: Call, usage: Usage, prices: Iterable[Price] = ()) -> str | None:
    """Return `price` as text, without making an amount that nobody adds up."""
    if usage.input_tokens is None and usage.output_tokens is None:
        return None
    try:
        tariff = tariff_of(call, prices, usage.model)
        return None if tariff is None else money_text(tariff.micros(usage), tariff.currency)
    except Exception:
        logger.exception("no price for %s", call.name)
        return None


def _at(steps: tuple[tuple[int, T], ...], input_tokens: int) -> T:
    return next(found for start, found in reversed(steps) if input_tokens > start) if len(steps) > 1 else steps[0][1]


def _together(*kinds: _Steps) -> tuple[tuple[int, Rates], ...]:
    """Make one table of those of all kinds of tokens."""
    starts = sorted({start for steps in kinds for start, _ in steps})
    return tuple((start, Rates(*(_at(steps, start + 1) for steps in kinds))) for start in starts)


@functools.lru_cache(maxsize=256)
def _configured(said: Price) -> Tariff:
    def steps(amount: Money) -> _Steps:
        return ((-1, _parts(amount.amount)),)

    assert said.input is not None and said.output is not None  # noqa: PT018, S101 - whoever calls has looked
    read = steps(said.input)
    cached = read if said.cached_input is None else steps(said.cached_input)
    return _made(said.input.currency, _together(read, steps(said.output), cached, read, read))


@functools.lru_cache(maxsize=1024)
def _public(provider: str | None, address: str | None, model: str, _quarter: int) -> Tariff | None:
    """Look a model up in the public lists."""
    lists = _lists()
    if lists is None:
        return None
    snapshot = lists.get_snapshot()
    named = _PROVIDERS.get(provider or "", provider)
    # Many speak the protocol of another: whose server it is says more.
    for asked in ({"provider_id": None, "provider_api_url": f"https://{address}"},
                  {"provider_id": named, "provider_api_url": None}):  # fmt: skip
        try:
            _, info = snapshot.find_provider_model(model, None, **asked)
        except LookupError:
            continue
        return _tariff(info.get_prices(dt.datetime.now(dt.UTC)).__dict__, info.context_window)
    return None


def _tariff(listed: Mapping[str, Any], tokens_max: int | None) -> Tariff:
    read = _steps(listed.get("input_mtok")) or _FREE
    written = _steps(listed.get("cache_write_mtok")) or read
    return _made(
        "USD",
        _together(
            read,
            _steps(listed.get("output_mtok")) or _FREE,
            _steps(listed.get("cache_read_mtok")) or read,
            written,
            _steps(listed.get("cache_write_1h_mtok")) or written,
        ),
        per_call=_parts((listed.get("requests_kcount") or Decimal(0)) * 1000),
        tokens_max=tokens_max,
    )


def _made(
    currency: str, table: tuple[tuple[int, Rates], ...], per_call: int = 0, tokens_max: int | None = None
) -> Tariff:
    """Make a tariff of prices in `_PARTS`: in the largest unit that rounds none of them."""
    unit = math.gcd(_PARTS, per_call, *(price for _, rates in table for price in rates))
    rates = tuple((start, Rates(*(price // unit for price in rates))) for start, rates in table)
    return Tariff(currency, _PARTS // unit, rates, per_call // unit, tokens_max)


def _steps(listed: Any) -> _Steps | None:
    if listed is None or isinstance(listed, Decimal):
        return None if listed is None else ((-1, _parts(listed)),)
    return ((-1, _parts(listed.base)), *((tier.start, _parts(tier.price)) for tier in listed.tiers))


def _parts(price: Decimal) -> int:
    return int(price.scaleb(18, EXACT).to_integral_value(ROUND_HALF_UP, EXACT))


@functools.lru_cache(maxsize=1)
def _lists() -> Any:
    try:
        from genai_prices import data_snapshot
    except ImportError:
        return None
    return data_snapshot
