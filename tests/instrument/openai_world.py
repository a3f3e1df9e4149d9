"""The world of the OpenAI tests: what is asked, and what the model answers."""

from __future__ import annotations

from spanledger.testing import CallTool, Fail, Say

SPAN = "chat gpt-5"
SECRET = "the moon is made of cheese"
ASK = {"model": "gpt-5", "messages": [{"role": "user", "content": SECRET}]}


def script(request: dict) -> Say | CallTool | Fail:
    wanted = request.get("user", "say")
    return {
        "say": Say("one two three"),
        "tool": CallTool("refund", {"order_id": "o-1"}),
        "json": Say('{"n": 7}'),
        "busy": Fail(429, "slow down"),
    }[wanted]
