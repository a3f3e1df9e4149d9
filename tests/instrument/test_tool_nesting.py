"""Guarded calls inside guarded calls, and what a running call knows of itself."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from spanledger import Budget, Calls, Money, current_call, errors, tool, tool_call, workflow


def ran_twice(function: Callable[[], object]) -> tuple[object, object]:
    return function(), function()


def test_the_same_call_through_a_second_door_is_guarded_and_charged_once(instrument, ledger):
    instrument(budgets=[Budget("few", Calls(1))])
    ran = []

    @tool("refund")
    def inner(order_id: str) -> int:
        ran.append(order_id)
        return len(ran)

    @tool("refund")
    def outer(order_id: str) -> int:
        return inner(order_id)

    with workflow("w"):
        assert ran_twice(lambda: outer("o-1")) == (1, 1)
    assert ledger.budget("few").spent == Calls(1)


@pytest.mark.usefixtures("guarded")
def test_a_block_inside_its_own_call_is_that_call():
    @tool("refund")
    def refund(order_id: str) -> str | None:
        with tool_call("refund", {"order_id": order_id}) as call:
            assert not call.replayed
            call.result = "done"
        return call.key

    key = refund("o-1")
    assert key is not None
    assert refund("o-1") == key


@pytest.mark.usefixtures("guarded")
def test_a_call_that_would_wait_for_itself_fails_at_once():
    @tool(fields=("order_id",))
    def refund(order_id: str, note: str) -> str:
        return refund(order_id, f"{note} again")

    @tool
    def first(order_id: str) -> str:
        return second(order_id)

    @tool
    def second(order_id: str) -> str:
        return first(order_id)

    for function, arguments in ((refund, ("o-1", "x")), (first, ("o-1",))):
        with pytest.raises(errors.CallInProgress, match="itself"):
            function(*arguments)


@pytest.mark.usefixtures("guarded")
def test_another_call_inside_a_call_is_guarded_on_its_own(ledger):
    @tool
    def refund(order_id: str) -> str:
        return order_id

    @tool
    def settle(order_id: str) -> str:
        return refund(order_id)

    assert ran_twice(lambda: settle("o-1")) == ("o-1", "o-1")
    assert {row["tool"]: row["attempts"] for row in ledger.calls()} == {"refund": 1, "settle": 1}


def test_the_running_call_shows_its_key_and_attempt_and_takes_what_it_costs(instrument, ledger, spans):
    instrument(budgets=[Budget("money", Money("20", "EUR"))])
    seen = []

    @tool(reserve=Money("15", "EUR"))
    def refund(order_id: str) -> None:
        call = current_call()
        seen.append((call.key, call.attempt))
        if len(seen) == 1:
            raise ValueError
        call.charge(Money("1.50", "EUR"))
        call.charge(Money("0.50", "EUR"))

    with workflow("w"):
        with pytest.raises(ValueError):
            refund("o-1")
        refund("o-1")
    ((key, first), (again, second)) = seen
    assert (key, first, second) == (again, 1, 2)
    assert ledger.get(key)["state"] == "succeeded"
    assert ledger.budget("money").spent == Money("2", "EUR")
    assert spans.all("execute_tool refund")[1].attributes["spanledger.cost"] == ("2.00 EUR",)
    assert (current_call().key, current_call().attempt) == (None, 0)


@pytest.mark.usefixtures("guarded")
def test_of_two_threads_with_the_same_call_one_runs_and_the_other_is_given_its_result():
    inside, go_on = threading.Event(), threading.Event()
    ran = []

    @tool
    def refund(order_id: str) -> int:
        ran.append(order_id)
        inside.set()
        assert go_on.wait(10)
        return len(ran)

    results = []

    def run() -> None:
        with workflow("w"):
            results.append(refund("o-1"))

    first, second = threading.Thread(target=run), threading.Thread(target=run)
    first.start()
    assert inside.wait(10)
    second.start()
    go_on.set()
    first.join()
    second.join()
    assert (results, ran) == ([1, 1], ["o-1"])
