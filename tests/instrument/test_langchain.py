"""Tools of LangChain, run by hand and by LangGraph: once by rule, answered under the id that asks."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Annotated

import pytest
from langchain_core.documents import Document
from langchain_core.messages import ToolMessage
from langchain_core.tools import StructuredTool
from langchain_core.tools import tool as langchain_tool
from langchain_world import BY_ARGUMENTS, REFUND, answers, asked, graph_of, told_by
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import InjectedState, ToolRuntime
from pydantic import BaseModel

from spanledger import Rule, workflow

LIBRARIES = ["langchain"]


# --- the ways in


WAYS = {
    "run": lambda tool, call_id: tool.run(REFUND, tool_call_id=call_id),
    "arun": lambda tool, call_id: asyncio.run(tool.arun(REFUND, tool_call_id=call_id)),
    "invoke": lambda tool, call_id: tool.invoke(asked(call_id)),
    "ainvoke": lambda tool, call_id: asyncio.run(tool.ainvoke(asked(call_id))),
    "graph": lambda tool, call_id: graph_of(tool).invoke(told_by(asked(call_id)))["messages"][-1],
    "graph, awaiting": lambda tool, call_id: asyncio.run(graph_of(tool).ainvoke(told_by(asked(call_id))))["messages"][
        -1
    ],
}
AWAITING = [name for name in WAYS if name in ("arun", "ainvoke", "graph, awaiting")]


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("way", WAYS)
def test_by_rule_a_repeated_call_is_answered_under_its_new_id_and_does_not_run(way, instrument, refund, world, spans):
    instrument(rules=[BY_ARGUMENTS])
    first, second = WAYS[way](refund, "call_a"), WAYS[way](refund, "call_b")
    assert type(first) is type(second) is ToolMessage
    assert (first.tool_call_id, second.tool_call_id) == ("call_a", "call_b")
    assert first.content == second.content == "refund 1"
    assert (second.name, second.status) == ("refund", "success")
    assert world.refunded == ["o-1"]
    ran, replayed = spans.all("execute_tool refund")
    assert [s.attributes["gen_ai.tool.call.id"] for s in (ran, replayed)] == ["call_a", "call_b"]
    assert [s.attributes["spanledger.verdict"] for s in (ran, replayed)] == ["run", "replay"]
    assert replayed.links[0].context.span_id == ran.context.span_id


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("way", AWAITING)
def test_a_tool_that_is_a_coroutine_runs_once_too(way, instrument, refund_awaiting, world):
    instrument(rules=[BY_ARGUMENTS])
    first, second = WAYS[way](refund_awaiting, "call_a"), WAYS[way](refund_awaiting, "call_b")
    assert (first.content, second.content, second.tool_call_id) == ("refund 1", "refund 1", "call_b")
    assert world.refunded == ["o-1"]


@pytest.mark.usefixtures("in_workflow")
def test_a_direct_call_without_an_id_gives_back_the_plain_value(instrument):
    instrument(rules=[Rule("lookup", identity="arguments")])
    lookup = StructuredTool.from_function(
        lambda order_id: {"order": order_id, "at": (1, 2)}, name="lookup", description="-"
    )
    first = lookup.invoke({"order_id": "o-1"})
    assert lookup.invoke({"order_id": "o-1"}) == first == {"order": "o-1", "at": (1, 2)}


@pytest.mark.usefixtures("in_workflow")
def test_content_and_artifact_both_come_back(instrument):
    instrument(rules=[BY_ARGUMENTS])
    ran = []

    @langchain_tool(response_format="content_and_artifact")
    def refund(order_id: str, amount: int) -> tuple[list, dict]:
        """Refund an order."""
        ran.append(order_id)
        return [{"type": "text", "text": "done"}], {"receipt": (1, order_id)}

    first, second = (refund.invoke(asked(call_id)) for call_id in ("call_a", "call_b"))
    assert (second.content, second.artifact) == (first.content, first.artifact)
    assert second.artifact == {"receipt": (1, "o-1")}
    assert ran == ["o-1"]


@pytest.mark.usefixtures("in_workflow")
def test_documents_that_a_search_found_come_back_as_documents(instrument):
    instrument()
    found = [Document("a", metadata={"page": 1}, id="d-1"), Document("b")]

    @langchain_tool(response_format="content_and_artifact")
    def search(query: str) -> tuple[str, list[Document]]:
        """Search."""
        return "a, b", list(found)

    first, second = (search.invoke(asked("call_a", "search", query="?")) for _ in range(2))
    assert (second.content, second.artifact) == (first.content, first.artifact) == ("a, b", found)
    assert all(type(one) is Document for one in second.artifact)


@pytest.mark.usefixtures("in_workflow")
def test_what_a_tool_says_beside_the_content_of_its_message_comes_back(instrument):
    instrument(rules=[BY_ARGUMENTS])

    @langchain_tool
    def refund(order_id: str, amount: int, runtime: ToolRuntime) -> ToolMessage:
        """Refund an order."""
        said = {"additional_kwargs": {"receipt": 1}, "response_metadata": {"bank": "b"}}
        return ToolMessage("done", tool_call_id=runtime.tool_call_id, **said)

    first, second = (graph_of(refund).invoke(told_by(asked(call_id)))["messages"][-1] for call_id in ("a", "b"))
    assert (first.tool_call_id, second.tool_call_id) == ("a", "b")
    assert second.additional_kwargs == first.additional_kwargs == {"receipt": 1}
    assert second.response_metadata == first.response_metadata == {"bank": "b"}


class Receipt(BaseModel):
    order_id: str
    amount: Decimal


RECEIPT = Receipt(order_id="o-1", amount=Decimal("1.10"))


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("result", [[1, 2], (1, 2), Decimal("1.10"), b"raw", {"at": (1, 2)}, None, ["a"], RECEIPT])
def test_what_was_given_to_the_program_is_given_to_the_model_as_a_run_would_give_it(result, instrument):
    refund = StructuredTool.from_function(lambda order_id, amount: result, name="refund", description="-")
    refund.func.__annotations__["return"] = type(result)
    told = refund.invoke(asked("call_a"))
    instrument(rules=[BY_ARGUMENTS])
    first, second = (refund.invoke(dict(REFUND)) for _ in range(2))
    assert (second, type(second)) == (first, type(first)) == (result, type(result))
    again = refund.invoke(asked("call_b"))
    assert (again.content, again.tool_call_id) == (told.content, "call_b")


# --- which calls are the same


@pytest.mark.usefixtures("in_workflow")
def test_without_a_rule_the_id_of_the_call_and_its_arguments_tell(instrument, refund, world, ledger):
    instrument()
    for call in (asked("call_a"), asked("call_a"), asked("call_b"), asked("call_a", order_id="o-2", amount=1)):
        refund.invoke(call)
    assert world.refunded == ["o-1", "o-1", "o-2"]
    assert {row["key_source"] for row in ledger.calls()} == {"call_id"}


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("call_id", ["", "unknown", "call_0"])
def test_an_id_that_every_call_has_tells_nothing(call_id, instrument, refund, world):
    instrument()
    for _ in range(2):
        refund.invoke(asked(call_id))
    assert len(world.refunded) == 2


@pytest.mark.usefixtures("in_workflow")
def test_what_the_framework_injects_is_not_part_of_the_call(instrument):
    instrument(rules=[BY_ARGUMENTS])
    seen = []

    @langchain_tool
    def refund(order_id: str, messages: Annotated[list, InjectedState("messages")], runtime: ToolRuntime) -> str:
        """Refund an order."""
        seen.append((len(messages), runtime.tool_call_id))
        return "done"

    graph = graph_of(refund)
    graph.invoke(told_by(asked("call_a", order_id="o-1")))
    again = {"messages": [("user", "again"), *told_by(asked("call_b", order_id="o-1"))["messages"]]}
    assert answers(graph.invoke(again)) == [("call_b", "done")]
    assert seen == [(1, "call_a")]


def test_in_a_thread_a_resumed_call_is_replayed_and_one_of_the_next_turn_is_new(instrument, refund, world, ledger):
    instrument(rules=[BY_ARGUMENTS])
    graph = graph_of(refund, checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "t-1"}}
    for call_id in ("call_a", "call_b"):
        graph.invoke(told_by(asked(call_id)), thread)
    assert len(world.refunded) == 2
    scopes = {row["workflow_id"] for row in ledger.calls()}
    assert len(scopes) == 2
    assert all("t-1" in scope for scope in scopes)


def test_a_rule_can_make_a_whole_thread_the_scope(instrument, refund, world, spans):
    instrument(rules=[Rule("refund", identity="arguments", scope="workflow")])
    graph = graph_of(refund, checkpointer=InMemorySaver())
    for thread_id in ("t-1", "t-1", "t-2"):
        graph.invoke(told_by(asked(f"call_{thread_id}")), {"configurable": {"thread_id": thread_id}})
    assert len(world.refunded) == 2
    ran = spans.all("execute_tool refund")[0]
    assert ran.attributes["spanledger.workflow.id"] == "t-1"
    assert ran.attributes["spanledger.workflow.source"] == "framework"


def test_a_workflow_around_a_graph_is_the_scope_and_not_its_thread(instrument, refund, world):
    instrument(rules=[BY_ARGUMENTS])
    graph = graph_of(refund, checkpointer=InMemorySaver())
    for thread_id in ("t-1", "t-2"):
        with workflow("w"):
            graph.invoke(told_by(asked("call_a")), {"configurable": {"thread_id": thread_id}})
    assert len(world.refunded) == 1


# --- several at once


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("awaiting", [False, True])
def test_of_equal_calls_asked_for_at_once_one_runs_and_each_is_answered(awaiting, instrument, refund, world):
    instrument(rules=[BY_ARGUMENTS])
    told = told_by(asked("call_a"), asked("call_b"), asked("call_c", order_id="o-2", amount=1))
    state = asyncio.run(graph_of(refund).ainvoke(told)) if awaiting else graph_of(refund).invoke(told)
    said = dict(answers(state))
    assert said.keys() == {"call_a", "call_b", "call_c"}
    assert said["call_a"] == said["call_b"] != said["call_c"]
    assert sorted(world.refunded) == ["o-1", "o-2"]
