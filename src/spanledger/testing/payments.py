"""A payment provider that pays out as often as it is asked.

Rules: it does not deduplicate, like many real ones; that is what it is for. A refund is recorded, then
`on_refund` runs, then the answer leaves: whoever dies in between has refunded and does not know it.
Amounts are decimal text, never a JSON number.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from spanledger.testing._http import BadRequestError, LoopbackServer, Reply, Request, json_reply

_FILTERS = frozenset({"reference", "order_id"})


@dataclass(frozen=True, slots=True)
class Refund:
    """One refund that was paid out.

    Attributes:
        id: The provider's own id, different for each refund, for example ``"re_…"``.
        order_id: What was refunded.
        amount: Decimal text as it was sent, for example ``"10.00"``.
        currency: An ISO 4217 code.
        reference: The caller's own reference, by which `GET /refunds` finds it; None if none was sent.
    """

    id: str
    order_id: str
    amount: str
    currency: str
    reference: str | None


class PaymentProvider(LoopbackServer):
    """`POST /refunds` pays out; `GET /refunds?reference=…` or `?order_id=…` looks up.

    A post takes JSON ``{"order_id", "amount", "currency", "reference"}``, the reference optional, and
    answers 201 with the refund, its id and ``"status": "succeeded"``; bad input is answered 422.

    Args:
        on_refund: Called with each refund after it was recorded and before it is answered, in the
            connection's thread. It may block, or kill the process that asked. What it raises becomes
            an answer of 500; the refund stays.
    """

    def __init__(self, on_refund: Callable[[Refund], object] | None = None) -> None:
        self._on_refund = on_refund
        self._lock = threading.Lock()
        self._refunds: list[Refund] = []

    @property
    def refunds(self) -> tuple[Refund, ...]:
        """Every refund paid out so far, oldest first."""
        with self._lock:
            return tuple(self._refunds)

    def answer(self, request: Request) -> Reply:
        """Route one request."""
        try:
            match request.method, request.path:
                case "POST", "/refunds":
                    return self._pay(_refund(request.json_object()))
                case "GET", "/refunds":
                    return self._find(request)
        except BadRequestError as error:
            return json_reply(422, {"error": {"message": str(error)}})
        return json_reply(404, {"error": {"message": f"no {request.method} {request.path} here"}})

    def _pay(self, refund: Refund) -> Reply:
        with self._lock:
            self._refunds.append(refund)
        if self._on_refund is not None:
            self._on_refund(refund)
        return json_reply(201, _wire(refund))

    def _find(self, request: Request) -> Reply:
        # A misspelt filter must not look like "these are the refunds you asked for".
        if unknown := request.query.keys() - _FILTERS:
            raise BadRequestError(f"cannot search by {sorted(unknown)}: use reference or order_id")
        found = [
            _wire(refund)
            for refund in self.refunds
            if all(getattr(refund, name) == value for name, value in request.query.items())
        ]
        return json_reply(200, {"refunds": found})


def _wire(refund: Refund) -> dict[str, Any]:
    return {**asdict(refund), "status": "succeeded"}


def _refund(asked: dict[str, Any]) -> Refund:
    reference = asked.get("reference")
    if reference is not None and not isinstance(reference, str):
        raise BadRequestError("reference must be text")
    return Refund(
        id=f"re_{secrets.token_hex(12)}",
        order_id=_text(asked, "order_id", r".+"),
        amount=_amount(asked),
        currency=_text(asked, "currency", r"[A-Z]{3}"),
        reference=reference,
    )


def _text(asked: dict[str, Any], name: str, pattern: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str) or re.fullmatch(pattern, value, re.DOTALL) is None:
        raise BadRequestError(f"{name} must be text that matches {pattern}")
    return value


def _amount(asked: dict[str, Any]) -> str:
    text = _text(asked, "amount", r"\d+(\.\d+)?")
    if not Decimal(text):
        raise BadRequestError("amount must be more than zero")
    return text
