"""What the agents beside this file do to the world: they refund money, which shows in refunds.jsonl."""

import json
from pathlib import Path


def refund(order_id: str, amount: str) -> dict[str, str]:
    """Refund an amount in EUR to the customer of an order."""
    entry = {"order_id": order_id, "amount": amount, "currency": "EUR"}
    with Path("refunds.jsonl").open("a") as payments:
        payments.write(json.dumps(entry) + "\n")
    return {"status": "refunded", **entry}
