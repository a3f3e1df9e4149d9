"""An agent of LangChain, which is a graph of LangGraph, that refunds money. It knows nothing of spanledger.

    pip install -e '.[embedded]' langchain langchain-openai
    opentelemetry-instrument --traces_exporter console python examples/with_langchain.py

`spanledger.toml` beside this file names its side-effecting tool. A run is a span, streamed or not. The thread is the
scope of a call, narrowed to the turn. Where the graph has a checkpointer, a call that a person has to approve is an
interrupt; resume the run when they have spoken.
"""

import os

import offline  # noqa: F401 - without an OPENAI_API_KEY: a model on loopback
import shop
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI


def main() -> None:
    """Refund one order."""
    agent = create_agent(ChatOpenAI(model=os.environ.get("MODEL", "gpt-5-mini")), [shop.refund], name="support")
    request = os.environ.get("REQUEST", "Please refund 10.00 EUR for order o-123.")
    print(agent.invoke({"messages": [HumanMessage(request)]})["messages"][-1].content)


if __name__ == "__main__":
    main()
