"""A refund service that used to run its handlers through agent-ledger, on spanledger.

    python examples/moving_from_agent_ledger/refunds.py

It starts a private Postgres of its own; `SPANLEDGER_DSN` names yours instead. README.md beside it says what became of
what.
"""

import asyncio

from spanledger import Approval, AsyncLedger, Config, Money, Resource, Rule, ToolCall, errors, over

# What used to be RunOptions, StaleOptions, LedgerHooks and idempotency_keys, said once for each tool.
RULES = (
    Rule(
        "stripe.refund",
        fields=("order_id",),
        on_mismatch="refuse",
        reserve=lambda arguments: Money(arguments["amount"], "EUR"),
        approval=over(Money(100, "EUR")),
        wait_timeout_s=0.2,
        lease_s=60,
    ),
    Rule("mail.send", on_failure="replay"),
)
asked: list[Approval] = []


def refund(order_id: str, amount: int) -> ToolCall:
    """Describe a refund, as `ToolCall(workflow_id=…, tool=…, args=…, idempotency_keys=["order_id"])` did."""
    return ToolCall("stripe.refund", {"order_id": order_id, "amount": amount}, workflow_id="ticket-7")


async def once(ledger: AsyncLedger) -> None:
    """Run a handler once, and give its result to everybody who asks."""
    ran = []

    async def handler() -> dict[str, str]:
        ran.append("o-1")
        return {"refund": "re_1"}

    results = await asyncio.gather(*(ledger.run(refund("o-1", 20), handler) for _ in range(5)))
    print(f"five asked, {len(ran)} ran: {', '.join({str(result) for result in results})}")
    # There, other arguments under the same key went through. Here they are what `on_mismatch` says.
    try:
        await ledger.run(refund("o-1", 99), handler)
    except errors.KeyReused as refused:
        print(f"refused: {type(refused).__name__}")


async def approved(ledger: AsyncLedger) -> None:
    """Have a person allow a large one; the request is bound to exactly these arguments."""

    async def handler() -> dict[str, str]:
        return {"refund": "re_2"}

    call = refund("o-2", 250)
    try:
        await ledger.run(call, handler)
    except errors.ApprovalPending as pending:
        print(f"waits for a person: {asked[0].tool} {asked[0].arguments}")
        await ledger.approve(pending.approval_id, by="ops@example.com")  # or: spanledger approve ID
    print(f"allowed: {await ledger.run(call, handler)}")


async def by_hand(ledger: AsyncLedger) -> None:
    """Begin and settle by hand: only the verdict `run` means that it is yours to do."""
    call = ToolCall("crm.note", {"text": "refunded"}, resource=Resource("crm", "ticket", "7"), workflow_id="ticket-7")
    begun, other = await ledger.begin(call), await ledger.begin(call)
    print(f"by hand: {begun.verdict}, and whoever comes meanwhile {other.verdict}")
    await ledger.settle(begun, "noted")
    again = await ledger.begin(call)
    print(f"by hand: {again.verdict}, {again.result}")


async def failed(ledger: AsyncLedger) -> None:
    """Keep a failure for good, as all failures were there; without `on_failure` the next attempt runs."""

    async def handler() -> None:
        raise ValueError("no such mailbox")

    call = ToolCall("mail.send", {"to": "ada"}, workflow_id="ticket-7")
    for _ in range(2):
        try:
            await ledger.run(call, handler)
        except (ValueError, errors.CallFailed) as error:
            print(f"failed: {type(error).__name__}")


async def main() -> None:
    """Do what the service does in a day."""
    async with AsyncLedger(config=Config(rules=RULES, on_approval_needed=asked.append)) as ledger:
        for part in (once, approved, by_hand, failed):
            await part(ledger)
        for row in await ledger.calls("ticket-7"):
            print(f"{row['tool']:14} {row['state']:10} {row['arguments']}")


asyncio.run(main())
