"""An agent of the OpenAI Agents SDK that refunds money. It knows nothing of spanledger.

    pip install -e '.[embedded]' openai-agents
    opentelemetry-instrument --traces_exporter console python examples/with_openai_agents.py

`spanledger.toml` beside this file names its side-effecting tool. A run is a span; a refusal stops it as an
`AgentsException`; a call that a person has to approve is one of `result.interruptions`.
"""

import os

import offline  # noqa: F401 - without an OPENAI_API_KEY: a model on loopback
import shop
from agents import Agent, Runner, function_tool


def main() -> None:
    """Refund one order."""
    agent = Agent("support", model=os.environ.get("MODEL", "gpt-5-mini"), tools=[function_tool(shop.refund)])
    result = Runner.run_sync(agent, os.environ.get("REQUEST", "Please refund 10.00 EUR for order o-123."))
    print(result.final_output)


if __name__ == "__main__":
    main()
