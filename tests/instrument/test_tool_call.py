"""`tool_call()`: a block of one's own runs once, and says so; and mode "off", where nothing is guarded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from opentelemetry.trace import StatusCode

from spanledger import Budget, Money, Resource, current_call, errors, tool, tool_call, workflow


def ran_twice(function: Callable[[], object]) -> tuple[object, object]:
    return function(), function()


@pytest.mark.usefixtures("guarded")
def test_a_block_that_succeeded_is_replayed():
    def refund() -> tuple[bool, object]:
        with tool_call("refund", {"order_id": "o-1"}) as call:
            if not call.replayed:
                assert current_call().key == call.key
                call.result = {"at": (1, 2)}
        return call.replayed, call.result

    assert ran_twice(refund) == ((False, {"at": (1, 2)}), (True, {"at": (1, 2)}))


@pytest.mark.usefixtures("guarded")
def test_an_awaiting_block_that_succeeded_is_replayed(spans):
    async def refund() -> tuple[bool, object]:
        async with tool_call("refund", {"order_id": "o-1"}) as call:
            if not call.replayed:
                call.result = 1
        return call.replayed, call.result

    async def twice() -> list:
        return [await refund(), await refund()]

    assert asyncio.run(twice()) == [(False, 1), (True, 1)]
    assert [s.attributes["spanledger.verdict"] for s in spans.all("execute_tool refund")] == ["run", "replay"]


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize(("error", "state"), [(ValueError("no"), "failed"), (TimeoutError("?"), "unknown")])
def test_an_exception_leaves_a_block_as_it_is_and_is_recorded(error, state, ledger, spans):
    with pytest.raises(type(error)) as caught, tool_call("refund", {"order_id": "o-1"}) as call:
        raise error
    assert caught.value is error
    assert ledger.get(call.key)["state"] == state
    assert spans.one("execute_tool refund").status.status_code is StatusCode.ERROR


@pytest.mark.usefixtures("guarded")
def test_a_cancelled_block_leaves_the_outcome_unknown(ledger):
    async def cancel_inside() -> str | None:
        inside = asyncio.Event()
        calls = []

        async def block() -> None:
            async with tool_call("refund") as call:
                calls.append(call)
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(block())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return calls[0].key

    key = asyncio.run(cancel_inside())
    assert ledger.get(key)["state"] == "unknown"


def test_a_block_is_placed_and_identified_as_it_says(instrument, ledger):
    instrument()
    with workflow("around"):
        with tool_call("a", {"x": 1}, workflow_id="mine") as by_workflow:
            pass
        with tool_call("b", {"x": 1}, key="order-1") as by_key:
            pass
        with tool_call("c", {"x": 1}, resource=Resource("stripe", "charge", "ch_1")) as by_resource:
            pass
        with pytest.raises(errors.KeyReused), tool_call("b", {"x": 2}, key="order-1"):
            pytest.fail("must not run")
        with tool_call("c", {"x": 2}, resource=Resource("stripe", "charge", "ch_1")) as again:
            assert again.replayed
    rows = [ledger.get(call.key) for call in (by_workflow, by_key, by_resource)]
    assert [row["workflow_id"] for row in rows] == ["mine", "around", "around"]
    assert [row["key_source"] for row in rows] == ["arguments", "explicit", "resource"]


def test_a_refused_block_does_not_run_and_its_span_says_why(instrument, spans):
    instrument(budgets=[Budget("money", Money("5", "EUR"))])
    with pytest.raises(errors.BudgetExceeded), tool_call("refund", cost=Money("6", "EUR"), workflow_id="w"):
        pytest.fail("must not run")
    span = spans.one("execute_tool refund")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["spanledger.verdict"] == "budget_exceeded"
    assert span.attributes["spanledger.budget.names"] == ("money",)


def test_in_mode_off_everything_is_transparent(instrument, ledger):
    instrument(mode="off")
    ran = []

    @tool
    def refund(order: object) -> int:
        ran.append(current_call().key)
        return len(ran)

    async def a_block() -> tuple[bool, object]:
        async with tool_call("refund", {"order_id": "o-1"}) as call:
            call.result = 1
        return call.replayed, call.key

    assert ran_twice(lambda: refund(object())) == (1, 2)
    assert ran == [None, None]
    with tool_call("refund") as call, pytest.raises(ValueError):
        raise ValueError
    assert (call.replayed, call.key) == (False, None)
    assert asyncio.run(a_block()) == (False, None)
    assert ledger.calls() == []
