"""`@tool`: a function of one's own runs once for the same arguments, and fails as it would without us."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from opentelemetry.trace import StatusCode

from spanledger import Rule, errors, tool, tool_call, workflow


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


# --- what can be a tool


@pytest.mark.usefixtures("guarded")
def test_what_a_partial_function_was_given_before_is_part_of_the_call():
    ran = []

    def refund(order_id: str, amount: int, *, note: str = "") -> int:
        ran.append((order_id, amount, note))
        return len(ran)

    first, second, noted = (
        tool("refund")(functools.partial(refund, *given, **more))
        for given, more in ((("o-1",), {}), (("o-2",), {}), (("o-1",), {"note": "late"}))
    )
    assert [first(1), second(1), noted(1), first(1), second(amount=1), noted(1)] == [1, 2, 3, 1, 2, 3]


@pytest.mark.usefixtures("guarded")
def test_a_partial_coroutine_function_is_awaited_once():
    ran = []

    async def refund(order_id: str, amount: int) -> int:
        ran.append(order_id)
        return len(ran)

    guarded = tool("refund")(functools.partial(refund, "o-1"))

    async def twice() -> tuple[int, int]:
        return await guarded(1), await guarded(1)

    assert asyncio.run(twice()) == (1, 1)


class Receipt(NamedTuple):
    order_id: str
    count: int


class Refunds:
    def __init__(self) -> None:
        self.ran: list[str] = []

    def make(self, order_id: str) -> Receipt:
        self.ran.append(order_id)
        return Receipt(order_id, len(self.ran))

    async def make_later(self, order_id: str) -> Receipt:
        return self.make(order_id)

    __call__ = make


class LaterRefunds(Refunds):
    __call__ = Refunds.make_later


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("taken", ["make", "make_later"])
def test_a_method_that_is_taken_from_its_object_can_be_a_tool(taken):
    guarded = tool("refund")(getattr(Refunds(), taken))
    assert [in_turn(guarded, one) for one in ("o-1", "o-2", "o-1")] == [("o-1", 1), ("o-2", 2), ("o-1", 1)]
    assert in_turn(guarded, order_id="o-2") == ("o-2", 2)


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("kind", [Refunds, LaterRefunds])
@pytest.mark.parametrize("made", [lambda one: one, functools.partial])
def test_what_an_object_that_is_called_gave_comes_back_as_its_annotation_says(kind, made):
    guarded = tool("refund")(made(kind()))
    first, again = in_turn(guarded, "o-1"), in_turn(guarded, "o-1")
    assert (first, again, type(again)) == (("o-1", 1), ("o-1", 1), Receipt)


@pytest.mark.usefixtures("guarded")
def test_what_a_class_makes_comes_back_as_what_it_is():
    guarded = tool(Receipt)
    assert (guarded("o-1", 1), guarded("o-1", 1)) == (Receipt("o-1", 1),) * 2


def in_turn(guarded: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    async def awaited(made: Any) -> Any:
        return await made

    made = guarded(*args, **kwargs)
    return asyncio.run(awaited(made)) if inspect.iscoroutine(made) else made


class Counting:
    def __call__(self) -> Iterator[int]:
        yield 1


def test_an_object_whose_call_is_a_generator_is_none_either():
    with pytest.raises(errors.ConfigError, match="is a generator"):
        tool("count")(Counting())


@pytest.mark.usefixtures("guarded")
def test_what_the_rule_says_holds_where_the_function_is_given_with_it():
    with pytest.raises(errors.ConfigError, match="lease_s"):
        tool(len, lease_s=-1)
    ran = []
    with pytest.raises(errors.ApprovalPending):
        tool(lambda: ran.append(1), approval=True, wait_timeout_s=0)()
    assert ran == []


class Counter:
    def __call__(self) -> int:
        return 1


@pytest.mark.parametrize("nameless", [functools.partial(print, "x"), Counter()])
def test_what_has_no_name_of_its_own_has_to_be_given_one(nameless):
    for decorate in (tool, tool(), tool(lease_s=5)):
        with pytest.raises(errors.ConfigError, match="has no name of its own: give it one"):
            decorate(nameless)


@pytest.mark.parametrize("thing", [3, classmethod(Counter), ["refund"], b"refund"])
def test_what_is_neither_a_function_nor_a_name_is_not_taken_for_a_name(thing):
    for decorate in (tool, tool(), tool("refund")):
        with pytest.raises(errors.ConfigError, match="@tool guards a function, or takes a tool's name"):
            decorate(thing)


def test_a_function_that_does_not_say_what_it_takes_cannot_be_a_tool():
    with pytest.raises(errors.ConfigError, match="'max' does not say what it takes"):
        tool(max)
