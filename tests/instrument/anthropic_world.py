"""The world of the Anthropic tests: what is asked, and what the model answers."""

from __future__ import annotations

import json
from collections.abc import Iterator

from spanledger.testing import CallTool, Counted, Fail, Raw, Say

SPAN = "chat claude-haiku-4-5"
USED = Counted(1000, 50, cached_tokens=200, cache_written_tokens=100, reasoning_tokens=20)
TOOL = {"name": "refund", "description": "x", "input_schema": {"type": "object", "properties": {}}}


def asking(text: str = "say", **more: object) -> dict:
    messages = [{"role": "user", "content": text}]
    return {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": messages} | more


def begun() -> list[dict]:
    """The events of a stream that tells its input and says a word."""
    message = {"id": "m-1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5", "content": []}
    usage = {"input_tokens": 30, "output_tokens": 1}
    return [
        {"type": "message_start", "message": message | {"stop_reason": None, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "twelve bytes"}},
    ]


def hung_up() -> Iterator[bytes]:
    """A stream that tells its input, says a word and breaks off."""
    for event in begun():
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
    raise ConnectionAbortedError


def script(request: dict) -> Say | CallTool | Fail | Raw:
    return {
        "say": Say("one two three"),
        "tool": CallTool("refund", {"order_id": "o-1"}),
        "json": Say('{"n": 7}'),
        "busy": Fail(429, "slow down"),
        "used": Say("one two three", used=USED),
        "hung_up": Raw(hung_up()),
        "garbage": Raw(b"event: message_start\ndata: {not json\n\n"),
    }[request["messages"][-1]["content"]]
