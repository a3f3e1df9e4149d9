"""The demo's agent: LangGraph and the OpenAI client. It knows nothing of spanledger.

Rules: this is the user's program, so nothing in it is for our convenience. Its tool asks a payment provider on
loopback for a refund, without any protection of its own. It is started as a process, with
`opentelemetry-instrument` or without.
"""

from __future__ import annotations

import json
import os
import urllib.request
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, convert_to_openai_messages
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from openai import OpenAI


@tool
def refund(order_id: str, amount: str) -> Any:
    """Refund an amount in EUR to the customer of an order."""
    body = json.dumps({"order_id": order_id, "amount": amount, "currency": "EUR"}).encode()
    request = urllib.request.Request(f"{os.environ['PAYMENTS_URL']}/refunds", body, method="POST")  # noqa: S310
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - an address the demo made
        return json.load(answer)


def call_model(state: MessagesState) -> dict[str, list[AIMessage]]:
    """Ask the model what to do next."""
    messages: Any = convert_to_openai_messages(state["messages"])
    tools: Any = [convert_to_openai_tool(refund)]
    answer = OpenAI().chat.completions.create(model="gpt-5-mini", messages=messages, tools=tools)
    message = answer.choices[0].message
    calls = [
        {"name": call.function.name, "args": json.loads(call.function.arguments), "id": call.id}
        for call in message.tool_calls or []
        if call.type == "function"
    ]
    return {"messages": [AIMessage(message.content or "", tool_calls=calls)]}


def main() -> None:
    """Do what the customer asks for."""
    graph = StateGraph(MessagesState)
    graph.add_node("model", call_model)
    graph.add_node("tools", ToolNode([refund]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    question = MessagesState(messages=[HumanMessage(os.environ["REQUEST"])])
    final = graph.compile(name="support").invoke(question)
    print(final["messages"][-1].content)


if __name__ == "__main__":
    main()
