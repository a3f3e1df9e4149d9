"""A support agent that used to ask tracengent's platform what it may do, on spanledger.

    python examples/moving_from_tracengent/governed.py

It starts a private Postgres of its own; `SPANLEDGER_DSN` names yours instead. README.md beside it says what became of
what. What an operator would say with `spanledger grants add` and in `spanledger.toml` stands in `CONFIG`.
"""

from typing import Any

import httpx

import spanledger
from spanledger import Config, EgressRule, Grant, Money, Rule, errors, guard, tool, workflow

KEYS: Any = ("k1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",)  # from your secrets: openssl rand -base64 32
CONFIG = Config(
    rules=(Rule("refund", permission="payments:refund", reserve=lambda arguments: Money(arguments["amount"], "EUR")),),
    grants=(
        Grant("payments:*", agent="support", limit=Money(300, "EUR")),
        Grant("crm:write", agent="support", redact=("iban",)),
    ),
    egress=(EgressRule("tracker.example", "deny", reason="customers are nobody else's business"),),
    delegation_keys=KEYS,
)


@tool("refund")
def refund(order_id: str, amount: int) -> str:
    """Refund an order."""
    return f"refunded {amount} EUR of {order_id}"


@tool("track")
def track(order_id: str) -> str:
    """Tell somebody else."""
    return httpx.post("http://tracker.example/seen", json={"order": order_id}).text


def decided() -> None:
    """Ask what may be done: `authorize`, `ensure_authorized` and `has_permission` there and here."""
    print("may refund 20 EUR:", bool(spanledger.authorize("payments:refund", Money(20, "EUR"))))
    answer = spanledger.authorize("payments:refund", Money(500, "EUR"))
    print(f"may refund 500 EUR: {answer.allowed}, {answer.grant}: {answer.reason}")
    print("may delete users:", spanledger.has_permission("users:delete"))


def passed_on() -> None:
    """Pass a call on without what a grant redacts: `tools.guard_mcp` and `tools.guard_function` there."""

    def crm(arguments: dict[str, object]) -> str:
        return f"the CRM got {arguments}"

    print(guard("crm.update", {"customer": "c-1", "iban": "DE02 1203"}, crm, permission="crm:write"))


def delegated() -> None:
    """Pass some of the authority on: `attenuate_for_call` and `begin_delegated_task` there."""
    token = spanledger.delegate("billing", ["payments:refund"], max_amount=Money(50, "EUR"), reason="order 7")
    with workflow("order-7", agent="billing"), spanledger.delegated(token):
        print("billing:", refund("order-7", 20))
        try:
            refund("order-7", 40)
        except errors.CallRefused as refused:
            print(f"billing is refused: {type(refused).__name__}")


def main() -> None:
    """Work on one order: `begin_trace` and `trace.step` there."""
    spanledger.instrument(CONFIG)
    with workflow("order-7", agent="support", actor="u_42", goal="refund order 7") as trace:
        trace.step("the parcel is lost")
        trace.decide("method", options=["card", "voucher"], chosen="card", because="paid by card")
        decided()
        print("once:", {refund("order-7", 100) for _ in range(3)})
        passed_on()
        try:
            track("order-7")
        except errors.CallRefused as refused:
            print(f"did not leave: {type(refused).__name__}")
        delegated()
    spanledger.uninstrument()


main()
