"""Runs of LangGraph: one span each, whichever way they are begun, and the calls under it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_world import asked, graph_of, told_by
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from opentelemetry import trace
from opentelemetry.trace import StatusCode

LIBRARIES = ["langchain", "langgraph"]
THREAD: Any = {"configurable": {"thread_id": "t-1"}}


def streamed(graph: Any, given: Any) -> list[Any]:
    return list(graph.stream(given, THREAD))


def awaited(graph: Any, given: Any) -> Any:
    return asyncio.run(graph.ainvoke(given, THREAD))


def streamed_awaiting(graph: Any, given: Any) -> list[Any]:
    async def main() -> list[Any]:
        return [chunk async for chunk in graph.astream(given, THREAD)]

    return asyncio.run(main())


def events(graph: Any, given: Any) -> list[Any]:
    async def main() -> list[Any]:
        return [event async for event in graph.astream_events(given, THREAD, version="v2")]

    return asyncio.run(main())


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "invoke": lambda graph, given: graph.invoke(given, THREAD),
    "ainvoke": awaited,
    "stream": streamed,
    "astream": streamed_awaiting,
    "astream_events": events,
}


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_run_a_graph_is_one_span_with_the_calls_under_it(way, refund, spans):
    WAYS[way](graph_of(refund, name="support"), told_by(asked("call_a")))
    run, tool = spans.one("invoke_agent support"), spans.one("execute_tool refund")
    assert tool.parent.span_id == run.context.span_id
    assert run.attributes["gen_ai.conversation.id"] == "t-1"
    assert run.status.status_code is StatusCode.UNSET


@pytest.mark.usefixtures("guarded")
def test_who_reads_a_stream_does_so_outside_of_its_span(refund, spans):
    before = trace.get_current_span()
    for _ in graph_of(refund).stream(told_by(asked("call_a")), THREAD):
        assert trace.get_current_span() is before
    assert spans.one("invoke_agent LangGraph")


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("awaiting", [False, True])
def test_a_stream_that_is_broken_off_ends_its_span_and_one_never_read_has_none(awaiting, refund, spans):
    graph, given = graph_of(refund), told_by(asked("call_a"))

    async def main() -> None:
        graph.astream(given, THREAD)
        stream = graph.astream(given, THREAD, stream_mode="values")
        await anext(stream)
        await stream.aclose()

    if awaiting:
        asyncio.run(main())
    else:
        graph.stream(given, THREAD)
        stream = graph.stream(given, THREAD, stream_mode="values")
        next(stream)
        stream.close()
    assert spans.one("invoke_agent LangGraph").status.status_code is StatusCode.UNSET


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_fails_is_a_failed_span(way, refund, world, spans):
    world.raises = [ValueError("no")]
    with pytest.raises(ValueError, match="no"):
        WAYS[way](graph_of(refund), told_by(asked("call_a")))
    assert spans.one("invoke_agent LangGraph").attributes["error.type"] == "ValueError"


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("awaiting", [False, True])
def test_a_graph_in_a_graph_that_an_interrupt_suspends_has_not_failed(awaiting, spans):
    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [("user", interrupt("sure?"))]}

    inner = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").compile(name="inner")
    outer = StateGraph(MessagesState).add_node("inner", inner).add_edge(START, "inner")
    graph = outer.compile(checkpointer=InMemorySaver(), name="outer")
    run = WAYS["ainvoke" if awaiting else "invoke"]
    run(graph, {"messages": [("user", "go")]})
    assert run(graph, Command(resume="yes"))["messages"][-1].content == "yes"
    assert len(spans.all("invoke_agent inner")) == len(spans.all("invoke_agent outer")) == 2
    assert {span.status.status_code for span in spans.all()} == {StatusCode.UNSET}
    assert spans.all("invoke_agent inner")[0].parent.span_id == spans.all("invoke_agent outer")[0].context.span_id
