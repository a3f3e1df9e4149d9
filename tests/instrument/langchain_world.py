"""The world of the LangChain tests: what a refund does, what a model asks for, and a graph that runs its tools."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from spanledger import Rule

BY_ARGUMENTS = Rule("refund", identity="arguments")
REFUND = {"order_id": "o-1", "amount": 10}


class World:
    """What a refund does, and how often it was done."""

    def __init__(self) -> None:
        self.refunded: list[str] = []
        self.raises: list[BaseException] = []

    def refund(self, order_id: str) -> str:
        self.refunded.append(order_id)
        if self.raises:
            raise self.raises.pop(0)
        return f"refund {len(self.refunded)}"


def asked(call_id: str, name: str = "refund", **arguments: Any) -> dict[str, Any]:
    """What a model asks for."""
    return {"type": "tool_call", "id": call_id, "name": name, "args": arguments or REFUND}


def told_by(*calls: dict[str, Any]) -> dict[str, list[AnyMessage]]:
    """The state of a graph in which a model has just asked for tools."""
    return {"messages": [AIMessage("", tool_calls=list(calls))]}


def graph_of(tools: ToolNode | BaseTool, **compiled: Any) -> Any:
    """An agent that only runs the tools it is told to."""
    node = tools if isinstance(tools, ToolNode) else ToolNode([tools])
    return StateGraph(MessagesState).add_node("tools", node).add_edge(START, "tools").compile(**compiled)


def answers(state: dict[str, list[AnyMessage]]) -> list[tuple[str, str]]:
    return [(m.tool_call_id, m.content) for m in state["messages"] if isinstance(m, ToolMessage)]
