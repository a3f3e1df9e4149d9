"""`@tool` and `tool_call` where a person has to say yes."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from spanledger import Approval, Ledger, Money, Rule, over, tool, tool_call, workflow
from spanledger.errors import ApprovalDenied, ApprovalPending

WAIT_MAX_S = 30.0


def waiting(ledger: Ledger) -> Approval:
    """The request that somebody waits for."""
    deadline_s = time.monotonic() + WAIT_MAX_S
    while not (found := ledger.approvals()):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return found[0]


def test_a_tool_waits_for_a_person_and_then_runs_once(instrument, ledger: Ledger, spans) -> None:
    instrument()
    ran: list[str] = []

    @tool("shop.refund", approval=True, wait_timeout_s=WAIT_MAX_S)
    def refund(order_id: str) -> str:
        ran.append(order_id)
        return "paid"

    def agent() -> str:
        with workflow("w", agent="support", actor="u_42"):
            return refund("o-1")

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(agent)
        approval = waiting(ledger)
        assert (approval.tool, approval.arguments) == ("shop.refund", {"order_id": "o-1"})
        assert (approval.agent, approval.actor, approval.workflow_id) == ("support", "u_42", "w")
        ledger.approve(approval.id, by="ops")
        assert result.result(WAIT_MAX_S) == "paid"
    assert agent() == "paid"
    assert ran == ["o-1"]
    first, second = spans.all("execute_tool shop.refund")
    assert first.attributes["spanledger.approval.id"] == approval.id
    assert second.attributes["spanledger.verdict"] == "replay"


def test_a_coroutine_waits_without_blocking_its_loop(instrument, ledger: Ledger) -> None:
    instrument(rules=[Rule("refund", approval=True, wait_timeout_s=WAIT_MAX_S)])

    @tool
    async def refund(order_id: str) -> str:
        return "paid"

    async def main() -> str:
        with workflow("w"):
            task = asyncio.create_task(refund("o-1"))
            approval = await asyncio.to_thread(waiting, ledger)
            ledger.approve(approval.id, by="ops")
            return await task

    assert asyncio.run(main()) == "paid"


def test_a_tool_asks_where_it_reserves_more_than_an_amount(instrument, in_workflow) -> None:
    instrument()

    def price(arguments: dict[str, Any]) -> Money:
        return Money(arguments["amount"], "EUR")

    @tool(approval=over(Money(100, "EUR")), reserve=price, wait_timeout_s=0)
    def refund(amount: str) -> str:
        return "paid"

    assert refund("100") == "paid"
    with pytest.raises(ApprovalPending):
        refund("101")


def test_a_configured_rule_asks_also_for_a_tool_whose_developer_did_not(instrument, in_workflow) -> None:
    instrument(rules=[Rule("refund", approval=True, wait_timeout_s=0)])
    with pytest.raises(ApprovalPending):
        tool("refund", approval=False)(lambda: pytest.fail("ran"))()


@pytest.mark.parametrize("awaited", [False, True], ids=["with", "async with"])
def test_a_block_is_entered_when_a_person_has_said_yes(instrument, ledger: Ledger, spans, awaited: bool) -> None:
    instrument()

    async def block() -> Any:
        call = tool_call("refund", {"order_id": "o-1"}, workflow_id="w", approval=True, wait_timeout_s=0)
        if awaited:
            async with call:
                call.result = "paid"
        else:
            with call:
                call.result = "paid"
        return call.result

    for _ in range(2):
        with pytest.raises(ApprovalPending) as pending:
            asyncio.run(block())
    assert ledger.approve(pending.value.approval_id, by="ops")
    assert asyncio.run(block()) == "paid"
    refused = spans.all("execute_tool refund")[0]
    assert refused.attributes["spanledger.approval.id"] == pending.value.approval_id
    assert refused.end_time is not None, "a pending request is a closed span"


def test_what_a_person_denied_is_told_to_the_program(instrument, ledger: Ledger, in_workflow) -> None:
    instrument()
    refund = tool("refund", approval=True, wait_timeout_s=0)(lambda: pytest.fail("ran"))
    with pytest.raises(ApprovalPending) as pending:
        refund()
    ledger.deny(pending.value.approval_id, by="ops", reason="no such order")
    with pytest.raises(ApprovalDenied, match="ops denied it: no such order"):
        refund()
