"""LangChain tools, by hand and in a graph of LangGraph."""

from __future__ import annotations

import asyncio
import inspect

from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import StructuredTool, ToolException
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from library_case import Answer, Case, Way

NEEDS = ["langgraph>=1"]


def tool(function):
    body = {"coroutine" if inspect.iscoroutinefunction(function) else "func": function}
    return StructuredTool.from_function(**body, name="refund", description="Refund.", handle_tool_error=True)


def told(asked):
    return [{"type": "tool_call", "id": a.call_id, "name": "refund", "args": a.arguments} for a in asked]


def answers(messages):
    return [Answer(m.text, m, m.tool_call_id) for m in messages if isinstance(m, ToolMessage)]


def graph(tool):
    node = StateGraph(MessagesState).add_node("tools", ToolNode([tool])).add_edge(START, "tools")
    return node.compile(checkpointer=InMemorySaver())


def given(asked, thread):
    state = {"messages": [AIMessage("", tool_calls=told(asked))]}
    return state, {"configurable": {"thread_id": thread or "t-0"}}


def by_hand(tool, asked, thread):
    config = {"configurable": {"thread_id": thread}} if thread else None
    return answers([tool.invoke(call, config) for call in told(asked)])


def in_graph(tool, asked, thread):
    return answers(graph(tool).invoke(*given(asked, thread))["messages"])


def in_graph_awaiting(tool, asked, thread):
    return answers(asyncio.run(graph(tool).ainvoke(*given(asked, thread)))["messages"])


CASE = Case(
    "langchain",
    tool,
    ways={
        "by hand": Way(by_hand, bodies=("plain",)),
        "graph": Way(in_graph, bodies=("plain",), pauses=True),
        "graph, awaiting": Way(in_graph_awaiting, cancels=True, pauses=True),
    },
    threads=True,
    told_error=ToolException,
)
