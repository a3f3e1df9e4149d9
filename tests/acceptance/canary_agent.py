"""An agent that is given a secret in every place that its rule redacts, through every door there is.

It is run by `test_canary.py` under `opentelemetry-instrument`, with content captured and everything logged.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import openai
from langchain_core.tools import tool as langchain_tool
from opentelemetry import trace

import spanledger
from spanledger import Ledger, ToolCall, tool, tool_call, workflow
from spanledger.testing import CallTool, Fail, ModelServer, Say

CANARY = os.environ["CANARY"]
GIVEN = {
    "order": "visible-order",
    "password": CANARY,
    "card": {"number": CANARY, "name": "Ada"},
    "customer": CANARY,
    "headers": {"Authorization": f"Bearer {CANARY}"},
    "raw": [["authorization", CANARY], ["accept", "*/*"]],
    "lines": [f"Authorization: Bearer {CANARY}"],
    "body": json.dumps({"password": CANARY, "inner": json.dumps({"card": {"number": CANARY}})}),
    "note": f"as told: {CANARY}",
}


def told(approval: spanledger.Approval) -> None:
    """What `on_approval_needed` is given."""
    with Path("told.txt").open("a") as file:
        file.write(repr(approval))


def done(how: str) -> dict[str, Any]:
    """Every way in which a tool can end."""
    match how:
        case "fails":
            error = ValueError(f"cannot charge {CANARY}", CANARY)
            error.add_note(CANARY)
            raise error from RuntimeError(CANARY)
        case "is lost":
            raise TimeoutError(f"no answer about {CANARY}")
        case _:
            return {"id": "visible-id", **GIVEN}


def by_tool(how: str) -> Any:
    @tool("tool door")
    def door(how: str, given: Mapping[str, Any]) -> dict[str, Any]:
        return done(how)

    return door(how, GIVEN)


def by_block(how: str) -> Any:
    with tool_call("block door", {"how": how, "given": GIVEN}) as call:
        if not call.replayed:
            call.result = done(how)
        return call.result


def by_span(how: str) -> Any:
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "span door",
        "gen_ai.tool.call.arguments": json.dumps({"how": how, "given": GIVEN}),
        "password": CANARY,
        "http.request.header.authorization": [CANARY],
    }
    with trace.get_tracer("agent").start_as_current_span("execute_tool span door", attributes=attributes) as span:
        span.add_event("sent", {"body": GIVEN["body"]})
        span.set_attribute("gen_ai.tool.call.result", json.dumps(done(how)))


def by_unreadable_span(how: str) -> Any:
    attributes = {"gen_ai.tool.call.arguments": f"{{{how} {CANARY}", "gen_ai.tool.name": "span door"}
    with trace.get_tracer("agent").start_as_current_span("execute_tool span door", attributes=attributes) as span:
        span.set_attribute("gen_ai.tool.call.result", f"charged {CANARY}")
        done(how)


def by_langchain(how: str) -> Any:
    @langchain_tool("chain_door")
    def door(how: str, given: dict[str, Any]) -> dict[str, Any]:
        """Charge somebody."""
        return done(how)

    return door.invoke(
        {"type": "tool_call", "id": f"call_{how}", "name": "chain_door", "args": {"how": how, "given": GIVEN}}
    )


def by_ledger(how: str) -> Any:
    with Ledger() as ledger:
        call = ToolCall("ledger door", {"how": how, "given": GIVEN}, workflow_id="by ledger")
        return ledger.run(call, lambda: done(how))


def asking(how: str) -> Any:
    with tool_call("asking door", {"how": how, "given": GIVEN}, approval=True, wait_timeout_s=0) as call:
        call.result = done(how)


def unpriced(how: str) -> Any:
    def price(arguments: Mapping[str, Any]) -> Any:
        raise ValueError(arguments["given"]["password"])

    with tool_call("unpriced door", {"how": how, "given": GIVEN}, reserve=price):
        done(how)


def model(request: Mapping[str, Any]) -> Say | CallTool | Fail:
    """A model that repeats what it is told, in words and as arguments of a tool."""
    match request["user"]:
        case "fails":
            return Fail(400, f"I do not like {CANARY}")
        case "is lost":
            return Say(f"I have charged {CANARY} and more than that")
        case _:
            return CallTool("chat_door", {"how": "succeeds", "given": GIVEN})


def by_model(how: str, name: str = "gpt-5") -> Any:
    """A model whose tool's rule redacts, told of the tool in every way, whole and in a stream that is broken off."""
    called = {"name": "chat_door", "arguments": json.dumps({"how": how, "given": GIVEN})}
    asked = {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": called}]}
    messages = [
        {"role": "system", "content": f"they say {CANARY}"},
        {"role": "user", "content": [{"type": "text", "text": f"charge {CANARY} for visible-order"}]},
        asked,
        {"role": "tool", "tool_call_id": "c1", "content": json.dumps(GIVEN)},
        {"role": "tool", "tool_call_id": "elsewhere", "content": f"charged {CANARY}"},
    ]
    with ModelServer(model) as server, openai.OpenAI(base_url=server.url, api_key="x", max_retries=0) as client:
        stream = client.chat.completions.create(model=name, messages=messages, user="succeeds", stream=True)
        for _, _chunk in zip(range(9), stream, strict=False):
            pass
        stream.close()
        client.responses.create(model=name, input=[{"role": "user", "content": GIVEN["body"]}, *items()], user=how)
        return client.chat.completions.create(model=name, messages=messages, user=how)


def items() -> list[Any]:
    """The same in the items of a response."""
    called = {"type": "function_call", "call_id": "c1", "name": "chat_door", "arguments": json.dumps({"given": GIVEN})}
    return [called, {"type": "function_call_output", "call_id": "c1", "output": f"charged {CANARY}"}]


def by_ruled_model(how: str) -> Any:
    """A model whose own rule redacts."""
    return by_model(how, "gpt-door")


DOORS: list[Callable[[str], Any]] = [
    by_tool, by_block, by_span, by_unreadable_span, by_langchain, by_ledger, asking, unpriced, by_model, by_ruled_model,
]  # fmt: skip


def main() -> None:
    logging.basicConfig(filename="everything.log", level=logging.DEBUG, force=True)
    logging.getLogger("spanledger").setLevel(logging.DEBUG)
    # What clients log of their requests at this level is everything, and none of our business.
    for name in ("openai", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.INFO)
    ended = []
    with workflow("w", agent="agent", actor="u_42"):
        for door in DOORS:
            for how in ("succeeds", "succeeds", "fails", "fails", "is lost", "is lost"):
                try:
                    door(how)
                    ended.append(f"{door.__name__} {how}")
                except Exception as error:
                    ended.append(f"{door.__name__} {how}: {type(error).__name__}")
    print("\n".join(ended))


if __name__ == "__main__":
    main()
