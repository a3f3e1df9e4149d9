"""An agent made of the Anthropic client and its tool runner, which runs a tool that is guarded by a decorator.

    pip install -e '.[embedded]' anthropic
    opentelemetry-instrument --traces_exporter console python examples/with_anthropic.py

The client's calls are spans, and count against budgets of tokens or money. `workflow` is the root of the trace and the
scope of idempotency: the run that is repeated under its id is not refunded twice.
"""

import json
import os

import offline  # noqa: F401 - without an ANTHROPIC_API_KEY: a model on loopback
import shop
from anthropic import Anthropic, beta_tool

import spanledger


@beta_tool
@spanledger.tool
def refund(order_id: str, amount: str) -> str:
    """Refund an amount in EUR to the customer of an order."""
    return json.dumps(shop.refund(order_id, amount))


def main() -> None:
    """Refund one order."""
    model = os.environ.get("MODEL", "claude-sonnet-4-6")
    request = os.environ.get("REQUEST", "Please refund 10.00 EUR for order o-123.")
    with spanledger.workflow(os.environ.get("SPANLEDGER_WORKFLOW_ID", "order-123"), agent="support", goal=request):
        runner = Anthropic().beta.messages.tool_runner(
            model=model, max_tokens=1024, tools=[refund], messages=[{"role": "user", "content": request}]
        )
        print(runner.until_done().content)


if __name__ == "__main__":
    main()
