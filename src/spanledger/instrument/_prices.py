"""What a model call cost, by the published prices of `genai-prices` where that package is installed.

Rules: an unknown model has no price; none is guessed. Prices are in US dollars, and the figure is an estimate
from public price lists, not an invoice.
"""

from __future__ import annotations

import functools
import logging
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from spanledger.core.call import Call, Usage
from spanledger.core.money import Money
from spanledger.telemetry import semconv

logger = logging.getLogger("spanledger.instrument")


def price(call: Call, usage: Usage) -> Money | None:
    """Return what a call cost, or None where that is not known."""
    if usage.input_tokens is None:
        return None
    prices = _prices()
    if prices is None:
        return None
    try:
        found = prices.calc_price(
            prices.Usage(
                input_tokens=usage.input_tokens,
                cache_read_tokens=usage.cached_tokens,
                output_tokens=usage.output_tokens,
            ),
            model_ref=usage.model or call.name,
            provider_id=call.attributes.get(semconv.PROVIDER_NAME),
        )
    except LookupError:
        return None
    except Exception:
        logger.exception("no price for %s", call.name)
        return None
    return Money(Decimal(found.total_price).quantize(Decimal("0.000001"), ROUND_HALF_UP), "USD")


@functools.lru_cache(maxsize=1)
def _prices() -> Any:
    try:
        import genai_prices
    except ImportError:
        return None
    return genai_prices
