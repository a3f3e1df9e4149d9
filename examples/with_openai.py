"""An agent without a framework: the OpenAI client asks, and the program runs the tool, guarded by a decorator.

    pip install -e '.[embedded]' openai
    opentelemetry-instrument --traces_exporter console python examples/with_openai.py

The client's calls are spans, and count against budgets of tokens or money. `workflow` is the root of the trace and the
scope of idempotency: the run that is repeated under its id is not refunded twice.
"""

import json
import os
from typing import Any

import offline  # noqa: F401 - without an OPENAI_API_KEY: a model on loopback
import shop
from openai import OpenAI

import spanledger

refund = spanledger.tool(shop.refund)
PARAMETERS = {"type": "object", "properties": {name: {"type": "string"} for name in ("order_id", "amount")}}
TOOLS: Any = [{"type": "function", "function": {"name": "refund", "parameters": PARAMETERS}}]


def main() -> None:
    """Refund one order."""
    request = os.environ.get("REQUEST", "Please refund 10.00 EUR for order o-123.")
    messages: list[Any] = [{"role": "user", "content": request}]
    with spanledger.workflow(os.environ.get("SPANLEDGER_WORKFLOW_ID", "order-123"), agent="support", goal=request):
        while True:
            completions = OpenAI().chat.completions
            answer = completions.create(model=os.environ.get("MODEL", "gpt-5-mini"), messages=messages, tools=TOOLS)
            messages.append(answer.choices[0].message)
            for call in answer.choices[0].message.tool_calls or []:
                done = refund(**json.loads(call.function.arguments)) if call.type == "function" else {}
                messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(done)})
            if answer.choices[0].finish_reason != "tool_calls":
                break
    print(messages[-1].content)


if __name__ == "__main__":
    main()
