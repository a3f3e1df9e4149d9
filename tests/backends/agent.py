"""The refund agent of the examples, in one conversation: a thread of its framework."""

from __future__ import annotations

import os

from langchain_core.messages import HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from refund_agent import call_model, refund

graph = StateGraph(MessagesState)
graph.add_node("model", call_model)
graph.add_node("tools", ToolNode([refund]))
graph.add_edge(START, "model")
graph.add_conditional_edges("model", tools_condition)
graph.add_edge("tools", "model")
asked = MessagesState(messages=[HumanMessage("Please refund 10.00 EUR for order o-123.")])
graph.compile(name="support").invoke(asked, {"configurable": {"thread_id": os.environ["THREAD"]}})
