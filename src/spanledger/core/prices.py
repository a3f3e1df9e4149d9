"""What a model's tokens cost and how many a call can use, where somebody says so.

Rules: what is said here wins over public price lists; the first `Price` whose `match` fits the model's name counts.
Prices are per million tokens, so that a price in whole units of a currency is one in millionths per token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from spanledger.core.money import Money
from spanledger.core.rules import matches
from spanledger.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Price:
    """What the tokens of a model cost, and how many of them one call can use at most.

    For models that public price lists do not know (your own, or a deployment with a name of its own), and for prices
    that are not the public ones.

    Attributes:
        match: Name of the models, as the program asks for them; ``*`` stands for any text.
        input: Price of a million tokens read.
        output: Price of a million tokens written.
        cached_input: Price of a million tokens read from a cache; None: as `input`.
        same_as: Instead of prices: a model of the public lists whose prices and limits these models have.
        input_tokens_max: The most tokens one call can read: reserved where a request refers to what it does not hold.
        output_tokens_max: The most tokens one call can write: reserved where a request names no maximum.
    """

    match: str
    input: Money | None = field(default=None, kw_only=True)
    output: Money | None = field(default=None, kw_only=True)
    cached_input: Money | None = field(default=None, kw_only=True)
    same_as: str | None = field(default=None, kw_only=True)
    input_tokens_max: int | None = field(default=None, kw_only=True)
    output_tokens_max: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.match, str) or not self.match:
            raise ConfigError(f"a price needs the name of a model to match, not {self.match!r}; '*' matches all")
        where = f"price of {self.match!r}"
        given = [price for price in (self.input, self.output, self.cached_input) if price is not None]
        if not all(isinstance(price, Money) for price in given):
            raise ConfigError(f"{where}: input, output and cached_input are Money per million tokens")
        if len({price.currency for price in given}) > 1:
            raise ConfigError(f"{where}: all its prices are in one currency")
        if (self.input is None) != (self.output is None) or (self.input is None and self.cached_input is not None):
            raise ConfigError(f"{where}: input and output go together")
        if self.same_as is not None and (given or not isinstance(self.same_as, str) or not self.same_as):
            raise ConfigError(f"{where}: same_as is the name of a model, and takes the place of prices")
        for name in ("input_tokens_max", "output_tokens_max"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigError(f"{where}: {name} is a whole number, at least 1, not {value!r}")


def price_for(prices: Iterable[Price], model: str) -> Price | None:
    """Return what is said of a model."""
    return next((price for price in prices if matches(price.match, model)), None)


@dataclass(frozen=True, slots=True)
class Bound:
    """The most that one request to a model can use, as far as the request says.

    Attributes:
        input_tokens: Tokens it can have the model read; None where it refers to what it does not hold.
        output_tokens: Tokens it lets the model write, all choices together; None where it names no maximum.
        choices: How many answers it asks for.
        writes_cache: What is read may be put into a cache, which may cost more than reading it.
    """

    input_tokens: int | None
    output_tokens: int | None
    choices: int = 1
    writes_cache: bool = True
