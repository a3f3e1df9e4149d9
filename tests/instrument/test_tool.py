"""`@tool` and `tool_call()`: a function or a block of one's own runs once, and says so."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import enum
import pickle
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import NamedTuple

import pydantic
import pytest
from opentelemetry.trace import StatusCode

import spanledger
from spanledger import Budget, Calls, Config, Money, Resource, Rule, current_call, errors, tool, tool_call, workflow


@dataclasses.dataclass(frozen=True)
class Receipt:
    order_id: str
    amount: Decimal
    notes: tuple[str, ...] = ()


class Invoice(pydantic.BaseModel):
    number: int
    receipts: list[Receipt]


class Method(enum.StrEnum):
    CARD = "card"


class Point(NamedTuple):
    x: int
    y: int


@pytest.fixture
def instrument(dsn: str) -> Callable[..., None]:
    """Guard this process with the given fields of `Config`, on this test's database, without any library."""
    return lambda **fields: spanledger.instrument(Config(dsn=dsn, **fields), libraries=[])


@pytest.fixture
def guarded(instrument: Callable[..., None]) -> Iterator[None]:
    """Guard this process without rules, inside a workflow."""
    instrument()
    with workflow("w"):
        yield


def ran_twice(function: Callable[[], object]) -> tuple[object, object]:
    return function(), function()


# --- what is the same call


@pytest.mark.usefixtures("guarded")
def test_a_function_runs_once_for_the_same_arguments():
    ran = []

    @tool
    def refund(order_id: str) -> dict:
        ran.append(order_id)
        return {"n": len(ran)}

    assert ran_twice(lambda: refund("o-1")) == ({"n": 1}, {"n": 1})
    assert refund("o-2") == {"n": 2}
    assert ran == ["o-1", "o-2"]


@pytest.mark.usefixtures("guarded")
def test_a_coroutine_function_runs_once_for_the_same_arguments():
    ran = []

    @tool
    async def refund(order_id: str) -> dict:
        ran.append(order_id)
        return {"n": len(ran)}

    async def twice() -> tuple[dict, dict]:
        return await refund("o-1"), await refund("o-1")

    assert asyncio.iscoroutinefunction(refund)
    assert asyncio.run(twice()) == ({"n": 1}, {"n": 1})


@pytest.mark.usefixtures("guarded")
def test_arguments_given_by_place_by_name_or_by_default_make_one_call():
    ran = []

    @tool
    def refund(order_id: str, amount: int = 10, *rest: int, **more: int) -> int:
        ran.append((order_id, amount, rest, more))
        return len(ran)

    assert refund("o-1") == refund("o-1", 10) == refund(order_id="o-1", amount=10) == 1
    assert refund("o-1", 10, 3) == 2
    assert refund("o-1", note=4) == refund("o-1", 10, note=4) == 3
    assert refund("o-1", 11) == 4


@pytest.mark.usefixtures("guarded")
def test_the_object_of_a_method_is_not_part_of_the_call():
    class Shop:
        def __init__(self) -> None:
            self.ran = 0

        @tool("shop.refund")
        def refund(self, order_id: str) -> int:
            self.ran += 1
            return self.ran

        @tool("shop.refund_awaiting")
        async def refund_awaiting(self, order_id: str) -> int:
            self.ran += 1
            return self.ran

        @staticmethod
        @tool("shop.ping")
        def ping(order_id: str) -> str:
            return order_id

        @classmethod
        @tool("shop.named")
        def named(cls, order_id: str) -> str:
            return f"{cls.__name__} {order_id}"

    first, second = Shop(), Shop()
    assert first.refund("o-1") == second.refund(order_id="o-1") == Shop.refund(second, "o-1") == 1
    assert asyncio.run(first.refund_awaiting("o-1")) == asyncio.run(second.refund_awaiting("o-1")) == 2
    assert (first.ran, second.ran) == (2, 0)
    assert ran_twice(lambda: first.ping("o-1")) == ("o-1", "o-1")
    assert ran_twice(lambda: Shop.named("o-1")) == ("Shop o-1", "Shop o-1")


@pytest.mark.usefixtures("instrument")
def test_another_workflow_is_another_call(instrument):
    instrument()
    ran = []

    @tool
    def refund() -> int:
        ran.append(1)
        return len(ran)

    def run_of(workflow_id: str) -> int:
        with workflow(workflow_id):
            return refund()

    assert [run_of("a"), run_of("b"), run_of("a")] == [1, 2, 1]


@pytest.mark.usefixtures("guarded")
def test_the_name_and_the_rule_at_the_decorator_apply(ledger):
    ran = []

    @tool("stripe.refund", fields=("order_id",))
    def refund(order_id: str, note: str) -> int:
        ran.append(note)
        return len(ran)

    assert refund("o-1", "please") == refund("o-1", "pretty please") == 1
    (row,) = ledger.calls(workflow_id="w")
    assert (row["tool"], row["key_source"], row["state"]) == ("stripe.refund", "fields", "succeeded")


def test_a_configured_rule_wins_over_the_one_at_the_decorator(instrument):
    instrument(rules=[Rule("refund", identity="none")])
    ran = []

    @tool(fields=("order_id",))
    def refund(order_id: str) -> int:
        ran.append(order_id)
        return len(ran)

    with workflow("w"):
        assert ran_twice(lambda: refund("o-1")) == (1, 2)


def test_arguments_that_cannot_be_compared_are_refused_before_anything_runs(instrument, spans):
    instrument()

    @tool
    def refund(order: object) -> None:
        pytest.fail("must not run")

    with pytest.raises(errors.Undescribable, match="refund"):
        refund(object())
    span = spans.one("execute_tool refund")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "Undescribable"


@pytest.mark.usefixtures("guarded")
def test_a_call_that_does_not_fit_the_signature_fails_as_without_us(ledger):
    @tool
    def refund(order_id: str) -> None: ...

    with pytest.raises(TypeError, match="order_id"):
        refund()
    assert ledger.calls() == []


# --- what is given back


def json_values() -> dict:
    return {"a": [1, "x", None, True, 1.5], "b": {"$c": {}}, "big": 2**70, "d": Decimal("1.10")}


def a_float() -> float:
    return 2.0


def pair() -> tuple[int, list[tuple[str, int]]]:
    return 1, [("a", 2)]


def receipt() -> Receipt:
    return Receipt("o-1", Decimal("10.00"), ("a", "b"))


def invoice() -> Invoice:
    return Invoice(number=1, receipts=[receipt()])


def invoices() -> list[Invoice]:
    return [invoice(), Invoice(number=2, receipts=[])]


def maybe_receipt() -> Receipt | None:
    return receipt()


def no_receipt() -> Receipt | None:
    return None


def by_method() -> dict[str, Method]:
    return {"by": Method.CARD}


def point() -> Point:
    return Point(1, 2)


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize(
    "function",
    [json_values, a_float, pair, receipt, invoice, invoices, maybe_receipt, no_receipt, by_method, point],
    ids=lambda function: function.__name__,
)
def test_a_replay_gives_an_equal_value_of_the_same_type(function, spans):
    guarded = tool(function)
    first, second = ran_twice(guarded)
    assert second == first == function()
    assert repr(second) == repr(first)
    assert [s.attributes["spanledger.verdict"] for s in spans.all(f"execute_tool {function.__name__}")] == [
        "run",
        "replay",
    ]


@pytest.mark.usefixtures("guarded")
def test_a_result_that_would_not_come_back_equal_is_returned_but_not_kept(spans, ledger):
    made = []

    @tool
    def unannotated():
        made.append(receipt())
        return made[0]

    assert unannotated() is made[0]
    assert spans.one("execute_tool unannotated").attributes["spanledger.call.result_kept"] is False
    with pytest.raises(errors.ResultNotKept) as caught:
        unannotated()
    assert len(made) == 1
    assert ledger.get(caught.value.key)["state"] == "succeeded"


def test_a_result_that_is_too_large_or_not_wanted_is_not_kept(instrument):
    instrument(result_bytes_max=10, rules=[Rule("secret", keep_result=False)])
    large, secret = tool("large")(lambda: "x" * 20), tool("secret")(lambda: 1)
    with workflow("w"):
        assert (large(), secret()) == ("x" * 20, 1)
        for function in (large, secret):
            with pytest.raises(errors.ResultNotKept):
                function()


# --- what goes wrong inside


@pytest.mark.usefixtures("guarded")
def test_an_exception_of_the_function_passes_through_as_it_is_and_the_next_call_runs_anew(spans):
    raised = [ValueError("no such order"), None]

    @tool
    def refund() -> str:
        error = raised.pop(0)
        if error:
            raise error
        return "done"

    error = raised[0]
    with pytest.raises(ValueError, match="no such order") as caught:
        refund()
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (None, None)
    span = spans.one("execute_tool refund")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "ValueError"
    assert span.attributes["spanledger.call.outcome"] == "failed"
    assert refund() == "done"


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("error", [TimeoutError(), KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_after_an_error_that_leaves_it_open_the_call_is_not_run_again(error, ledger, spans):
    @tool
    def refund() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        refund()
    assert caught.value is error
    with pytest.raises(errors.OutcomeUnknown) as refused:
        refund()
    assert ledger.get(refused.value.key)["state"] == "unknown"
    assert [s.attributes["spanledger.verdict"] for s in spans.all()] == ["run", "outcome_unknown"]


@pytest.mark.usefixtures("guarded")
def test_a_task_cancelled_inside_the_function_leaves_the_outcome_unknown(ledger):
    async def cancel_inside() -> None:
        inside = asyncio.Event()

        @tool
        async def refund() -> None:
            inside.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(refund())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_inside())
    (row,) = ledger.calls()
    assert row["state"] == "unknown"


@pytest.mark.usefixtures("guarded")
def test_a_refusal_inside_a_call_is_that_call_s_error_and_not_its_verdict(spans):
    @tool
    def inner() -> None:
        raise TimeoutError

    @tool
    def outer() -> None:
        inner()

    with pytest.raises(TimeoutError):
        inner()
    with pytest.raises(errors.OutcomeUnknown):
        outer()
    span = spans.one("execute_tool outer")
    assert span.attributes["spanledger.verdict"] == "run"
    assert span.attributes["spanledger.call.outcome"] == "failed"


@pytest.mark.parametrize("awaiting", [False, True])
def test_a_generator_is_refused_where_it_is_decorated(awaiting):
    def blocking_generator() -> Iterator[int]:
        yield 1

    async def awaiting_generator():
        yield 1

    with pytest.raises(errors.ConfigError, match="generator"):
        tool(awaiting_generator if awaiting else blocking_generator)


@pytest.mark.parametrize("rule", [{"leese_s": 1}, {"lease_s": -1}, {"identity": "guess"}, {"reserve": 1.5}])
def test_a_value_that_a_rule_cannot_have_is_refused_where_the_function_is_decorated(rule):
    with pytest.raises(errors.ConfigError):
        tool("refund", **rule)(lambda: None)
    with pytest.raises(errors.ConfigError):
        tool_call("refund", **rule)


# --- copies


class Desk:
    """At the top of a module, where pickle finds it."""

    def __init__(self) -> None:
        self.ran = 0

    @tool("desk.refund")
    def refund(self, order_id: str) -> int:
        self.ran += 1
        return self.ran


@tool("desk.top")
def at_the_top(order_id: str) -> str:
    return order_id


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_guarded_function_or_method_can_be_copied_and_pickled_as_the_plain_one_can(copied):
    desk = Desk()
    assert copied({"m": desk.refund})["m"]("o-1") == 1
    assert copied(desk.refund)("o-1") == 1, "the copy is guarded: this is a replay"
    assert copied(at_the_top) is at_the_top
    assert copied(at_the_top)("o-1") == "o-1"


def test_a_guarded_function_keeps_its_name_its_words_and_its_signature():
    @tool("stripe.refund")
    def refund(order_id: str) -> int:
        """Refund an order."""

    assert (refund.__name__, refund.__doc__) == ("refund", "Refund an order.")
    assert refund.__annotations__ == {"order_id": "str", "return": "int"}


# --- calls inside calls


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


# --- what runs right now


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


# --- mode "off"


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


# --- blocks


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
