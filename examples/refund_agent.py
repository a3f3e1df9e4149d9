"""A LangGraph agent that refunds money. It knows nothing of spanledger.

    pip install -e '.[embedded]' langgraph openai
    opentelemetry-instrument --traces_exporter console python examples/refund_agent.py

`spanledger.toml` beside this file names its side-effecting tool. Run it twice with the same
SPANLEDGER_WORKFLOW_ID and look into refunds.jsonl: one refund.
"""

import json
import os
from pathlib import Path
from typing import Any

import offline  # noqa: F401 - without an OPENAI_API_KEY: a model on loopback
from langchain_core.messages import AIMessage, HumanMessage, convert_to_openai_messages
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from openai import OpenAI

MODEL = os.environ.get("MODEL", "gpt-5-mini")


@tool
def refund(order_id: str, amount: str) -> dict[str, str]:
    """Refund an amount in EUR to the customer of an order."""
    entry = {"order_id": order_id, "amount": amount, "currency": "EUR"}
    with Path("refunds.jsonl").open("a") as payments:
        payments.write(json.dumps(entry) + "\n")
    return {"status": "refunded", **entry}


def call_model(state: MessagesState) -> dict[str, list[AIMessage]]:
    """Ask the model what to do next."""
    messages: Any = convert_to_openai_messages(state["messages"])
    tools: Any = [convert_to_openai_tool(refund)]
    answer = OpenAI().chat.completions.create(model=MODEL, messages=messages, tools=tools)
    message = answer.choices[0].message
    calls = [
        {"name": c.function.name, "args": json.loads(c.function.arguments), "id": c.id}
        for c in message.tool_calls or []
        if c.type == "function"
    ]
    return {"messages": [AIMessage(message.content or "", tool_calls=calls)]}


def main() -> None:
    """Refund one order."""
    request = os.environ.get("REQUEST", "Please refund 10.00 EUR for order o-123.")
    graph = StateGraph(MessagesState)
    graph.add_node("model", call_model)
    graph.add_node("tools", ToolNode([refund]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    final = graph.compile().invoke(MessagesState(messages=[HumanMessage(request)]))
    print(final["messages"][-1].content)


if __name__ == "__main__":
    main()
