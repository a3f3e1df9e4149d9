"""Tools of LangChain that fail, are refused or suspended: the truth is recorded, and the model told."""

from __future__ import annotations

import asyncio
import copy
import threading
from typing import Any

import pytest
from langchain_core.tools import ToolException
from langchain_core.tools import tool as langchain_tool
from langchain_world import BY_ARGUMENTS, REFUND, answers, asked, graph_of, told_by
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from opentelemetry.trace import StatusCode

import spanledger
from spanledger import Budget, Calls, Money, Resolution, Rule, errors, workflow

LIBRARIES = ["langchain"]


# --- what goes wrong


@pytest.mark.usefixtures("in_workflow")
def test_an_exception_of_a_tool_passes_through_and_the_next_call_runs(instrument, refund, world, spans):
    instrument(rules=[BY_ARGUMENTS])
    world.raises = [ValueError("no")]
    error = world.raises[0]
    with pytest.raises(ValueError, match="no") as caught:
        graph_of(refund).invoke(told_by(asked("call_a")))
    assert caught.value is error
    assert spans.one("execute_tool refund").attributes["spanledger.call.outcome"] == "failed"
    assert refund.invoke(asked("call_b")).content == "refund 2"


@pytest.mark.usefixtures("in_workflow")
def test_a_timeout_of_a_tool_is_not_run_again(instrument, refund, world):
    instrument(rules=[BY_ARGUMENTS])
    world.raises = [TimeoutError()]
    with pytest.raises(TimeoutError):
        refund.invoke(asked("call_a"))
    with pytest.raises(errors.OutcomeUnknown):
        refund.invoke(asked("call_b"))
    assert len(world.refunded) == 1


@pytest.mark.usefixtures("in_workflow")
def test_an_error_that_the_framework_hides_is_a_failure_and_no_result(instrument, refund, world, ledger, spans):
    instrument(rules=[BY_ARGUMENTS])
    refund.handle_tool_error = True
    world.raises = [ToolException("card expired")]
    first, second = refund.invoke(asked("call_a")), refund.invoke(asked("call_b"))
    assert (first.content, first.status) == ("card expired", "error")
    assert (second.content, second.status) == ("refund 2", "success")
    failed = spans.all("execute_tool refund")[0]
    assert failed.attributes["spanledger.call.outcome"] == "failed"
    assert failed.status.status_code is StatusCode.ERROR
    (row,) = ledger.calls()
    assert (row["state"], row["attempts"]) == ("succeeded", 2)


@pytest.mark.usefixtures("in_workflow")
def test_arguments_that_the_tool_rejects_are_a_failure(instrument, refund, world):
    instrument(rules=[BY_ARGUMENTS])
    with pytest.raises(ValueError, match="amount"):
        refund.invoke(asked("call_a", order_id="o-1", amount="much"))
    assert world.refunded == []


# --- refusals


@pytest.mark.usefixtures("in_workflow")
def test_a_refusal_stops_the_run(instrument, refund, world):
    instrument(budgets=[Budget("few", Calls(1))])
    graph = graph_of(refund)
    graph.invoke(told_by(asked("call_a")))
    with pytest.raises(errors.BudgetExceeded):
        graph.invoke(told_by(asked("call_b")))
    assert len(world.refunded) == 1


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("awaiting", [False, True])
def test_a_refusal_is_told_to_the_model_where_the_rule_says_so(awaiting, instrument, refund, world, spans):
    instrument(rules=[Rule("refund", on_refusal="tell")], budgets=[Budget("few", Calls(1))])
    graph = graph_of(refund)
    graph.invoke(told_by(asked("call_a")))
    told = told_by(asked("call_b"))
    message = (asyncio.run(graph.ainvoke(told)) if awaiting else graph.invoke(told))["messages"][-1]
    assert (message.tool_call_id, message.name, message.status) == ("call_b", "refund", "error")
    assert "few" in message.content
    assert "few" in refund.invoke(REFUND), "without an id there is no message, only its words"
    assert len(world.refunded) == 1
    assert spans.all("execute_tool refund")[1].attributes["spanledger.verdict"] == "budget_exceeded"


@pytest.mark.usefixtures("in_workflow")
def test_a_tool_that_is_not_known_to_have_run_is_not_told_as_refused(instrument, refund, world):
    instrument(rules=[Rule("refund", identity="arguments", on_refusal="tell")])
    world.raises = [TimeoutError()]
    with pytest.raises(TimeoutError):
        refund.invoke(asked("call_a"))
    with pytest.raises(errors.OutcomeUnknown):
        refund.invoke(asked("call_b"))


# --- what a graph does beyond


@pytest.mark.parametrize("awaiting", [False, True])
def test_an_interrupt_is_neither_success_nor_failure_and_the_tool_runs_on_resume(
    awaiting, instrument, world, ledger, spans
):
    instrument(rules=[BY_ARGUMENTS])

    @langchain_tool
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        return f"{world.refund(order_id)} {interrupt('really?')}" if interrupt("sure?") == "yes" else "no"

    graph = graph_of(refund, checkpointer=InMemorySaver())

    def run(given: Any) -> dict[str, Any]:
        thread = {"configurable": {"thread_id": "t-1"}}
        return asyncio.run(graph.ainvoke(given, thread)) if awaiting else graph.invoke(given, thread)

    paused = run(told_by(asked("call_a")))
    assert [i.value for i in paused["__interrupt__"]] == ["sure?"]
    span = spans.one("execute_tool refund")
    assert span.status.status_code is StatusCode.UNSET
    assert answers(run(Command(resume="no"))) == [("call_a", "no")]
    (row,) = ledger.calls()
    assert (row["state"], row["attempts"]) == ("succeeded", 1)
    assert world.refunded == []


@pytest.mark.usefixtures("in_workflow")
def test_what_a_probe_finds_out_becomes_the_tool_s_message(instrument, refund, world):
    found = [None, Resolution("succeeded", {"refund": 7})]
    instrument(rules=[Rule("refund", identity="arguments", probe=lambda call, key: found.pop(0))])
    world.raises = [TimeoutError()]
    with pytest.raises(TimeoutError):
        refund.invoke(asked("call_a"))
    with pytest.raises(errors.OutcomeUnknown):
        refund.invoke(asked("call_b"))
    message = refund.invoke(asked("call_c"))
    assert (message.tool_call_id, message.content, message.status) == ("call_c", '{"refund": 7}', "success")
    assert len(world.refunded) == 1


@pytest.mark.usefixtures("in_workflow")
def test_tools_can_be_copied(instrument, refund, world):
    instrument(rules=[BY_ARGUMENTS])
    bound = copy.deepcopy({"run": refund.run, "tool": refund})
    assert bound["run"](REFUND) == bound["tool"].invoke(REFUND) == refund.invoke(REFUND) == "refund 1"


@pytest.mark.usefixtures("in_workflow")
def test_a_guarded_function_can_be_made_a_tool(instrument, world, ledger):
    instrument(rules=[BY_ARGUMENTS])

    @langchain_tool
    @spanledger.tool
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        return world.refund(order_id)

    assert set(refund.args) == {"order_id", "amount"}
    assert [refund.invoke(asked(call_id)).content for call_id in ("call_a", "call_b")] == ["refund 1"] * 2
    (row,) = ledger.calls()
    assert row["attempts"] == 1


@pytest.mark.usefixtures("in_workflow")
def test_a_guarded_function_made_a_tool_keeps_its_own_identity_and_is_charged_once(instrument, world, ledger):
    instrument(budgets=[Budget("few", Calls(1)), Budget("money", Money("20", "EUR"))])

    @langchain_tool
    @spanledger.tool(reserve=Money("10", "EUR"))
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        return world.refund(order_id)

    assert refund.invoke(asked("call_a")).content == "refund 1"
    ledger.top_up("few", Calls(1), by="test")
    assert refund.invoke(asked("call_b")).content == "refund 1"
    assert ledger.budget("money").spent == Money("10", "EUR")


@pytest.mark.usefixtures("in_workflow")
def test_two_workers_with_the_same_call_run_it_once(instrument, world, ledger):
    instrument(rules=[BY_ARGUMENTS])
    inside, go_on = threading.Event(), threading.Event()

    @langchain_tool
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        inside.set()
        assert go_on.wait(10)
        return world.refund(order_id)

    said = []

    def work(call_id: str) -> None:
        with workflow("w"):
            said.append(refund.invoke(asked(call_id)).content)

    workers = [threading.Thread(target=work, args=(call_id,)) for call_id in ("call_a", "call_b")]
    workers[0].start()
    assert inside.wait(10)
    workers[1].start()
    go_on.set()
    for worker in workers:
        worker.join()
    assert said == ["refund 1", "refund 1"]


@pytest.mark.usefixtures("in_workflow")
def test_another_call_of_the_same_tool_inside_one_is_guarded_though_its_id_is_the_same(instrument, world, ledger):
    instrument()

    @langchain_tool
    def delegate(depth: int) -> str:
        """Hand on."""
        call = asked("call_0", "delegate", depth=depth - 1)
        return delegate.invoke(call).content if depth else world.refund("o-1")

    delegate.invoke(asked("call_0", "delegate", depth=2))
    assert len(ledger.calls()) == 3


@pytest.mark.usefixtures("in_workflow")
def test_a_guarded_function_made_a_tool_is_one_call_where_defaults_are_filled_in(instrument, world, ledger):
    instrument(rules=[Rule("refund", fields=("order_id",))])

    @langchain_tool
    @spanledger.tool
    def refund(order_id: str, amount: int = 10) -> str:
        """Refund an order."""
        return world.refund(order_id)

    assert refund.invoke(asked("call_a", order_id="o-1")).content == "refund 1"
    (row,) = ledger.calls()
    assert row["attempts"] == 1
