"""An agent of Pydantic AI that refunds money. It knows nothing of spanledger.

    pip install -e '.[embedded]' 'pydantic-ai-slim[openai]'
    opentelemetry-instrument --traces_exporter console python examples/with_pydantic_ai.py

`spanledger.toml` beside this file names its side-effecting tool. A run is a span. Where `DeferredToolRequests` is one
of the agent's output types, a call that a person has to approve is one of them; resume the run when they have spoken.
"""

import os

import offline  # noqa: F401 - without an OPENAI_API_KEY: a model on loopback
import shop
from pydantic_ai import Agent


def main() -> None:
    """Refund one order."""
    agent = Agent(f"openai:{os.environ.get('MODEL', 'gpt-5-mini')}", name="support", tools=[shop.refund])
    result = agent.run_sync(os.environ.get("REQUEST", "Please refund 10.00 EUR for order o-123."))
    print(result.output)


if __name__ == "__main__":
    main()
