"""Tools that tell the graph where to go: their commands are given back, for the call that asks now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool as langchain_tool
from langchain_world import BY_ARGUMENTS, answers, asked, told_by
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, ToolNode, ToolRuntime
from langgraph.types import Command, Send

from spanledger import errors

LIBRARIES = ["langchain"]


class State(MessagesState):
    receipt: Any
    went: str


def graph_of(make: Any) -> Any:
    """A graph whose tool gives what `make` makes of the id of the call."""
    ran: list[str] = []

    @langchain_tool
    def refund(order_id: str, messages: Annotated[list, InjectedState("messages")], runtime: ToolRuntime) -> Any:
        """Refund an order."""
        ran.append(order_id)
        return make(runtime.tool_call_id, messages)

    graph = StateGraph(State).add_node("tools", ToolNode([refund])).add_edge(START, "tools")
    graph.add_node("notify", lambda _state: {"went": "to notify"})
    return graph.compile(), ran


def runs(graph: Any) -> tuple[Any, Any]:
    first, second = (graph.invoke(told_by(asked(call_id, order_id="o-1"))) for call_id in ("call_a", "call_b"))
    return first, second


def done(call_id: str, **fields: Any) -> ToolMessage:
    return ToolMessage("done", tool_call_id=call_id, **fields)


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize(
    "make",
    [
        lambda call_id, _: Command(update={"messages": [done(call_id)], "receipt": {"$n": (1, 2)}}, goto="notify"),
        lambda call_id, _: [Command(update={"receipt": {"$n": (1, 2)}}, goto=("notify",)), done(call_id)],
    ],
)
def test_a_command_is_given_back_for_the_call_that_asks_now(make, instrument):
    instrument(rules=[BY_ARGUMENTS])
    graph, ran = graph_of(make)
    first, second = runs(graph)
    assert (answers(first), answers(second)) == ([("call_a", "done")], [("call_b", "done")])
    assert second["receipt"] == first["receipt"] == {"$n": (1, 2)}
    assert second["went"] == first["went"] == "to notify"
    assert ran == ["o-1"]


@pytest.mark.usefixtures("in_workflow")
def test_a_command_whose_message_says_error_is_a_failure(instrument, ledger):
    instrument(rules=[BY_ARGUMENTS])
    graph, ran = graph_of(lambda call_id, _: Command(update={"messages": [done(call_id, status="error")]}))
    runs(graph)
    assert ran == ["o-1", "o-1"]
    assert [row["state"] for row in ledger.calls()] == ["failed"]


@dataclass
class Receipt:
    cents: int


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize(
    "make",
    [
        lambda call_id, given: Command(update={"messages": [*given, done(call_id)]}),
        lambda call_id, _: Command(update={"messages": [AIMessage("hm", tool_calls=[asked("x")]), done(call_id)]}),
        lambda call_id, _: Command(update={"messages": [done(call_id)]}, goto=Send("notify", {"a": 1})),
        lambda call_id, _: Command(update={"messages": [done(call_id)], "receipt": Receipt(1)}),
    ],
    ids=["the history", "messages of others", "a send", "an object"],
)
def test_a_command_that_would_bring_back_what_is_no_more_is_not_kept(make, instrument):
    instrument(rules=[BY_ARGUMENTS])
    graph, ran = graph_of(make)
    with pytest.raises(errors.ResultNotKept):
        runs(graph)
    assert ran == ["o-1"]
