"""A model that refunds orders: what our examples and the demo talk to."""

# Rules: it reads the user's words and nothing else; what it cannot read, it asks for.

from __future__ import annotations

import re
from typing import Any

from spanledger.testing.model_server import Script, call_tool_once

_ORDER = re.compile(r"\bo-\w+")
_AMOUNT = r"\b(\d+(?:\.\d{1,2})?)\b"


def refund_script() -> Script:
    """Return a script that calls the tool `refund(order_id: str, amount: str)` once, as the user's words say."""
    return call_tool_once("refund", refund_arguments)


def refund_arguments(user_text: str) -> dict[str, Any] | None:
    """Read an order number and an amount; None where either is missing."""
    order = _ORDER.search(user_text)
    rest = _ORDER.sub(" ", user_text)
    # A number with its currency is surely the amount; "2 chairs, 10.00 EUR" has another one before it.
    amount = re.search(_AMOUNT + r"\s*(?:EUR|€)", rest, re.IGNORECASE) or re.search(_AMOUNT, rest)
    if order is None or amount is None:
        return None
    return {"order_id": order[0], "amount": amount[1]}
