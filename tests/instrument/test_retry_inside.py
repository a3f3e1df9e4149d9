"""A call around stands for one call inside that is the same, and not for its repetition."""

from __future__ import annotations

import asyncio
import contextlib
import functools

import httpx
import pytest
from hand_written_inside import SPAN
from langchain_core.tools import tool as langchain_tool

import spanledger
from spanledger import Budget, Money, Rule, errors, workflow

LIBRARIES = ["langchain"]
RULE = Rule("refund", identity="arguments")


@pytest.fixture
def ran() -> list[str]:
    return []


def test_a_retry_inside_a_framework_s_tool_does_not_run_again_after_an_unknown_outcome(instrument, ledger, ran):
    instrument(rules=[RULE])

    @spanledger.tool("refund")
    def pay(order_id: str) -> str:
        ran.append(order_id)
        raise httpx.ReadTimeout("no answer")

    @langchain_tool
    def refund(order_id: str) -> str:
        """Refund, with a retry of its own."""
        with contextlib.suppress(httpx.ReadTimeout):
            return pay(order_id)
        return pay(order_id)

    with workflow("w"):
        with pytest.raises(errors.CallInProgress):
            refund.invoke({"order_id": "o-1"})
        with pytest.raises(errors.OutcomeUnknown):
            refund.invoke({"order_id": "o-1"})
    assert ran == ["o-1"]
    assert [call["state"] for call in ledger.calls()] == ["unknown"]


def test_a_task_that_outlives_its_call_is_not_inside_it_any_more(instrument, ledger, ran):
    instrument()

    @spanledger.tool
    async def mail(to: str) -> str:
        ran.append(to)
        return "sent"

    async def main():
        started = asyncio.Event()
        over = asyncio.Event()
        later = []

        async def afterwards():
            started.set()
            await over.wait()
            return await mail("a@example.com")

        @spanledger.tool("mail")
        async def first(to: str) -> str:
            later.append(asyncio.create_task(afterwards()))
            await started.wait()
            ran.append(to)
            return "sent"

        with workflow("w"):
            await first("a@example.com")
            over.set()
            return await later[0]

    assert asyncio.run(main()) == "sent"
    assert ran == ["a@example.com"]


def test_layers_of_one_call_are_one_call(instrument, ledger, ran, spans):
    instrument(rules=[RULE], budgets=[Budget("few", spanledger.Calls(1))])

    @spanledger.tool("refund")
    def pay(order_id: str) -> str:
        ran.append(order_id)
        return "paid"

    @langchain_tool
    def refund(order_id: str) -> str:
        """Refund through another layer."""
        with SPAN(order_id):
            return pay(order_id)

    with workflow("w"):
        assert [refund.invoke({"order_id": "o-1"}) for _ in range(2)] == ["paid", "paid"]
    assert ran == ["o-1"]


def test_what_was_paid_inside_stays_spent_where_the_wrapper_around_fails(instrument, ledger, ran):
    instrument(
        rules=[Rule("refund", reserve=Money("10", "EUR"))],
        budgets=[Budget("money", Money("15", "EUR"), match="refund")],
    )

    @spanledger.tool("refund")
    def pay(order_id: str) -> str:
        ran.append(order_id)
        return "paid"

    @langchain_tool
    def refund(order_id: str) -> str:
        """Refund, and stumble afterwards."""
        pay(order_id)
        raise ValueError("cannot format")

    def invoke(order_id: str) -> None:
        refund.invoke({"type": "tool_call", "id": f"call_{order_id}", "name": "refund", "args": {"order_id": order_id}})

    with workflow("w"):
        with pytest.raises(ValueError, match="cannot format"):
            invoke("o-1")
        balance = ledger.budget("money")
        assert (balance.spent, balance.held) == (Money("10", "EUR"), Money("0", "EUR"))
        with pytest.raises(errors.BudgetExceeded):
            invoke("o-2")
    assert ran == ["o-1"]
    assert ledger.budget("money").spent == Money("10", "EUR")


def test_a_timeout_that_the_framework_hides_from_us_is_an_unknown_outcome_all_the_same(instrument, ledger, ran):
    from langchain_core.tools import ToolException

    instrument(rules=[RULE])

    @langchain_tool
    def refund(order_id: str) -> str:
        """Refund."""
        ran.append(order_id)
        raise ToolException("the provider did not answer") from httpx.ReadTimeout("no answer")

    refund.handle_tool_error = True
    with workflow("w"):
        assert refund.invoke({"order_id": "o-1"}) == "the provider did not answer"
        with pytest.raises(errors.OutcomeUnknown):
            refund.invoke({"order_id": "o-1"})
    assert ran == ["o-1"]


def test_a_function_that_a_decorator_made_asynchronous_is_settled_when_it_has_run(instrument, ledger, ran):
    instrument()

    def made_asynchronous(function):
        @functools.wraps(function)
        async def wrapper(order_id: str) -> str:
            await asyncio.sleep(0)
            return function(order_id)

        return wrapper

    @spanledger.tool
    @made_asynchronous
    def refund(order_id: str) -> str:
        ran.append(order_id)
        raise TimeoutError

    async def main():
        await refund("o-1")

    with workflow("w"), pytest.raises(TimeoutError):
        asyncio.run(main())
    assert (ran, [call["state"] for call in ledger.calls()]) == (["o-1"], ["unknown"])
