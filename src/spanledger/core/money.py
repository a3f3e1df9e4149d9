"""Amounts: money, tokens, calls.

Rules: an amount is an integer of the smallest step of its unit, micro-units for currencies (1 EUR is
1,000,000) and single tokens or calls otherwise. `Decimal`, `str` and `int` come in and `Decimal` goes
out; a float is refused, because it cannot say 0.10. Currencies are the active codes of ISO 4217; an unknown
one is refused, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import ClassVar, Self

from spanledger.errors import ConfigError

MICROS = 1_000_000
# The ledger keeps amounts as 64-bit integers. A converted amount is at most ten times this, as is a limit with its
# top-ups, and what is spent of one account at most forty times, so that no sum of those overflows.
AMOUNT_MAX = 10**17
# Of our own: the program's context may round, and a rounded amount is another amount.
EXACT = Context(prec=60, Emin=-999_999, Emax=999_999, capitals=1, clamp=0, flags=[], traps=[Inexact, InvalidOperation])

TOKENS = "tokens"
CALLS = "calls"

CURRENCIES = frozenset(
    """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD
    CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF
    GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK
    LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD
    OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN
    SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VES VND VUV WST XAF XCD XCG XOF
    XPF YER ZAR ZMW ZWG
    """.split()  # noqa: SIM905 - a table, to be read
)


@dataclass(frozen=True, slots=True, init=False)
class Money:
    """An amount of a currency.

    Attributes:
        micros: The amount in millionths of the currency.
        currency: The ISO 4217 code.
    """

    micros: int
    currency: str

    def __init__(self, amount: Decimal | str | int, currency: str) -> None:
        """Make an amount.

        Args:
            amount: For example ``"12.34"``; at most six decimal places, not negative, at most 100,000,000,000.
            currency: An ISO 4217 code in capitals, for example ``"EUR"``.

        Raises:
            ConfigError: A float, a negative amount, one too large, too many decimal places or an unknown currency.
        """
        object.__setattr__(self, "micros", _micros(amount))
        object.__setattr__(self, "currency", known_currency(currency))

    @classmethod
    def of_micros(cls, micros: int, currency: str) -> Money:
        """Make an amount of millionths; negative only as a balance below its limit."""
        money = object.__new__(cls)
        object.__setattr__(money, "micros", micros)
        object.__setattr__(money, "currency", known_currency(currency))
        return money

    @property
    def amount(self) -> Decimal:
        """The amount in whole units of the currency."""
        return Decimal(self.micros).scaleb(-6, EXACT)

    @property
    def unit(self) -> str:
        """The unit a budget in this currency has."""
        return self.currency

    @property
    def steps(self) -> int:
        """The amount as the ledger keeps it."""
        return self.micros

    def __str__(self) -> str:
        return money_text(self.micros, self.currency)

    def __reduce__(self) -> tuple[object, ...]:
        return Money.of_micros, (self.micros, self.currency)


@dataclass(frozen=True, slots=True)
class _Count:
    """An amount that is counted."""

    count: int
    unit: ClassVar[str]

    def __post_init__(self) -> None:
        if type(self.count) is not int:
            raise ConfigError(f"{type(self).__name__} takes a whole number, not {self.count!r}")
        if not 0 <= self.count <= AMOUNT_MAX:
            raise ConfigError(f"{self.count} {self.unit}: a count is between 0 and {AMOUNT_MAX}")

    @classmethod
    def of_steps(cls, count: int) -> Self:
        """Make a count; negative only as a balance below its limit."""
        counted = object.__new__(cls)
        object.__setattr__(counted, "count", count)
        return counted

    @property
    def steps(self) -> int:
        """The amount as the ledger keeps it."""
        return self.count

    def __str__(self) -> str:
        return f"{self.count} {self.unit}"


class Tokens(_Count):
    """A number of tokens of a language model."""

    __slots__ = ()
    unit = TOKENS


class Calls(_Count):
    """A number of calls."""

    __slots__ = ()
    unit = CALLS


Amount = Money | Tokens | Calls


def amount_of(unit: str, steps: int) -> Amount:
    """Turn the ledger's integer into an amount of `unit`."""
    if unit == TOKENS:
        return Tokens.of_steps(steps)
    if unit == CALLS:
        return Calls.of_steps(steps)
    return Money.of_micros(steps, unit)


def money_text(micros: int, currency: str) -> str:
    """Write an amount of millionths, with as many decimals as it has, and two at least."""
    if micros < 0:
        return "-" + money_text(-micros, currency)
    digits = str(micros).zfill(7)  # of a unit, and six decimals
    decimals = digits[-6:].rstrip("0").ljust(2, "0")
    return f"{digits[:-6]}.{decimals} {currency}"


def figure(unit: str, steps: int) -> float:
    """Return an amount as the figure of a metric, which knows no exact ones; nothing is computed with it."""
    amount = amount_of(unit, steps)
    return float(amount.amount) if isinstance(amount, Money) else amount.steps


def parse_amount(text: str) -> Amount:
    """Read ``"500.00 EUR"``, ``"4000 tokens"`` or ``"20 calls"``.

    Raises:
        ConfigError: Anything else.
    """
    number, _, unit = text.strip().partition(" ")
    unit = unit.strip()
    if unit not in (TOKENS, CALLS):
        return Money(number, unit)
    if not number.isdecimal():
        raise ConfigError(f"{text!r} is not an amount; write for example '20 calls'")
    return Tokens(int(number)) if unit == TOKENS else Calls(int(number))


def known_currency(code: object) -> str:
    """Return `code` if it is an active ISO 4217 currency.

    Raises:
        ConfigError: It is not.
    """
    if code in CURRENCIES:
        return str(code)
    hint = f" (did you mean {str(code).upper()}?)" if str(code).upper() in CURRENCIES else ""
    raise ConfigError(f"unknown currency {code!r}{hint}; use an ISO 4217 code such as 'EUR'")


def _micros(amount: object) -> int:
    if isinstance(amount, float):
        raise ConfigError(f"money is never a float: write Money({str(amount)!r}, …) instead of {amount!r}")
    if isinstance(amount, bool) or not isinstance(amount, Decimal | str | int):
        raise ConfigError(f"an amount of money is a str, int or Decimal, not {type(amount).__name__}")
    try:
        value = Decimal(amount)
    except InvalidOperation:
        raise ConfigError(f"{amount!r} is not a decimal number") from None
    if not value.is_finite() or value.copy_abs() > AMOUNT_MAX // MICROS:
        raise ConfigError(f"{amount!r} is not an amount the ledger can hold (at most {AMOUNT_MAX // MICROS:,})")
    try:
        micros = value.scaleb(6, EXACT).quantize(Decimal(1), context=EXACT)
    except (Inexact, InvalidOperation):
        raise ConfigError(f"{amount!r} has more than six decimal places") from None
    if micros < 0:
        raise ConfigError(f"{amount!r} is negative; an amount is what is reserved or spent")
    return int(micros)
