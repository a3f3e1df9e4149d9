"""What model calls cost, by what the configuration says, else by the public lists of `genai-prices` where installed.

Rules: an unknown model has no price; none is guessed. Public prices are in US dollars and those of the standard tier;
what comes out is an estimate, not an invoice. The dearest an answer could get is rounded up, what it cost to the
nearest millionth. A price per million tokens in units of a currency is one per token in its millionths.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from typing import Any

from spanledger.core.call import Call, Usage
from spanledger.core.money import AMOUNT_MAX, Money
from spanledger.core.prices import Price, price_for
from spanledger.telemetry import semconv

logger = logging.getLogger("spanledger.instrument")

# Some prices depend on the time of day; they change on the quarter hour.
_PRICES_LAST_S = 900
_PROVIDERS = {"azure.ai.openai": "azure", "aws.bedrock": "aws", "gcp.vertex_ai": "google"}

# A price per million tokens, by the number of input tokens from which it applies; the first is from none.
_Steps = tuple[tuple[int, Decimal], ...]
_FREE: _Steps = ((-1, Decimal(0)),)


@dataclass(frozen=True, slots=True)
class Tariff:
    """What the tokens of one model cost.

    Attributes:
        currency: The currency of all prices.
        input: Of tokens read.
        output: Of tokens written.
        cached: Of tokens read from a cache.
        cache_written: Of tokens put into one.
        cache_written_1h: Of tokens put into one for an hour.
        per_call: Millionths of the currency for the call itself.
        tokens_max: The most tokens that the model can handle at once; None where that is not known.
    """

    currency: str
    input: _Steps
    output: _Steps
    cached: _Steps
    cache_written: _Steps
    cache_written_1h: _Steps
    per_call: Decimal = Decimal(0)
    tokens_max: int | None = None

    def cost(self, usage: Usage) -> Money:
        """What an answer cost."""
        read = usage.input_tokens or 0
        cached, written = usage.cached_tokens or 0, usage.cache_written_tokens or 0
        written_1h = usage.cache_written_1h_tokens or 0
        micros = self.per_call + max(0, read - cached - written) * _at(self.input, read)
        if cached:
            micros += cached * _at(self.cached, read)
        if written:
            micros += (written - written_1h) * _at(self.cache_written, read)
            micros += written_1h * _at(self.cache_written_1h, read)
        micros += (usage.output_tokens or 0) * _at(self.output, read)
        return self._money(micros, ROUND_HALF_UP)

    def most(self, input_tokens: int, output_tokens: int, *, writes_cache: bool) -> Money:
        """The most that an answer can cost."""
        kinds = (self.input, self.cached, self.cache_written, self.cache_written_1h)
        dearest = max(_most(kind, input_tokens) for kind in (kinds if writes_cache else kinds[:2]))
        micros = self.per_call + input_tokens * dearest + output_tokens * _most(self.output, input_tokens)
        return self._money(micros, ROUND_CEILING)

    def _money(self, micros: Decimal, rounding: str) -> Money:
        return Money.of_micros(min(int(micros.to_integral_value(rounding)), AMOUNT_MAX), self.currency)


def tariff_of(call: Call, prices: Iterable[Price], model: str | None = None) -> Tariff | None:
    """Find what a model costs.

    Args:
        call: The call.
        prices: What the configuration says.
        model: The model that answered, which public lists may know better than the name it was asked for by.
    """
    said = price_for(prices, call.name) if prices else None
    if said is not None and said.input is not None and said.output is not None:
        return _configured(said)
    provider = call.attributes.get(semconv.PROVIDER_NAME)
    address = call.attributes.get(semconv.SERVER_ADDRESS)
    quarter = int(time.time() // _PRICES_LAST_S)
    for name in dict.fromkeys((said.same_as,) if said and said.same_as else (model, call.name)):
        found = _public(provider, address, name, quarter) if name else None
        if found is not None:
            return found
    return None


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


def _at(steps: _Steps, input_tokens: int) -> Decimal:
    return next(price for start, price in reversed(steps) if input_tokens > start) if len(steps) > 1 else steps[0][1]


def _most(steps: _Steps, input_tokens: int) -> Decimal:
    # With fewer tokens than the bound a lower step may apply, and it need not be the cheaper one.
    return max(price for start, price in steps if input_tokens > start)


@functools.lru_cache(maxsize=256)
def _configured(said: Price) -> Tariff:
    def steps(amount: Money) -> _Steps:
        return ((-1, amount.amount),)

    assert said.input is not None and said.output is not None  # noqa: PT018, S101 - whoever calls has looked
    read = steps(said.input)
    cached = read if said.cached_input is None else steps(said.cached_input)
    return Tariff(said.input.currency, read, steps(said.output), cached, read, read)


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
    return Tariff(
        currency="USD",
        input=read,
        output=_steps(listed.get("output_mtok")) or _FREE,
        cached=_steps(listed.get("cache_read_mtok")) or read,
        cache_written=written,
        cache_written_1h=_steps(listed.get("cache_write_1h_mtok")) or written,
        per_call=(listed.get("requests_kcount") or Decimal(0)) * 1000,
        tokens_max=tokens_max,
    )


def _steps(listed: Any) -> _Steps | None:
    if listed is None or isinstance(listed, Decimal):
        return None if listed is None else ((-1, listed),)
    return ((-1, listed.base), *((tier.start, tier.price) for tier in listed.tiers))


@functools.lru_cache(maxsize=1)
def _lists() -> Any:
    try:
        from genai_prices import data_snapshot
    except ImportError:
        return None
    return data_snapshot
