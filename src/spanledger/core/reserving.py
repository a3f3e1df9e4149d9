"""What a call may cost, as a rule says it.

Rules: an amount is read from an argument as the model wrote it, and never by way of a float.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from spanledger.core.money import EXACT, Amount, Calls, Money, Tokens, known_currency
from spanledger.errors import ConfigError

SCALE_MAX = 6


@dataclass(frozen=True, slots=True)
class ArgumentAmount:
    """An amount found in an argument of the call.

    Attributes:
        argument: The argument's name.
        currency: Its currency; None where it counts tokens or calls.
        scale: Decimal places the argument leaves out: 2 where it is in cents.
        unit: ``"tokens"`` or ``"calls"`` instead of a currency.
    """

    argument: str
    currency: str | None = None
    scale: int = 0
    unit: str | None = None

    def __post_init__(self) -> None:
        if (self.currency is None) == (self.unit is None):
            raise ConfigError(f"reserve from argument {self.argument!r}: give a currency, or a unit, and not both")
        if self.currency is not None:
            known_currency(self.currency)
        if self.unit not in (None, "tokens", "calls"):
            raise ConfigError(f"{self.unit!r} is not a unit; use 'tokens', 'calls' or a currency")
        if type(self.scale) is not int or not 0 <= self.scale <= SCALE_MAX:
            raise ConfigError(
                f"reserve from argument {self.argument!r}: scale is a number of decimal places, not {self.scale!r}"
            )

    def __call__(self, arguments: Mapping[str, Any]) -> Amount:
        """Read the amount."""
        value = arguments[self.argument]
        if self.currency is None:
            return Tokens(value) if self.unit == "tokens" else Calls(value)
        # A model's JSON makes 10.5 a float; its shortest text is the number the model wrote.
        try:
            number = Decimal(float.__repr__(value) if isinstance(value, float) else value)
        except InvalidOperation:
            raise ValueError(f"{value!r} is not an amount") from None
        if isinstance(value, bool) or not number.is_finite():
            raise ValueError(f"{value!r} is not an amount")
        return Money(number.scaleb(-self.scale, EXACT), self.currency)


Reserve = Amount | Callable[[Mapping[str, Any]], Amount]
