"""The world of the OpenAI tests: what is asked, and what the model answers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from spanledger.testing import CallTool, Counted, Fail, Raw, Say

SPAN = "chat gpt-5"
SECRET = "the moon is made of cheese"
ASK = {"model": "gpt-5", "messages": [{"role": "user", "content": SECRET}]}


LIMITED = ASK | {"max_completion_tokens": 100}
# More than any text of this world has, so that figures can be told from those that are computed.
USED = Counted(1000, 50, cached_tokens=200, cache_written_tokens=100, reasoning_tokens=20)


def hung_up() -> Iterator[bytes]:
    """A stream that says a word and breaks off."""
    chunk = {"id": "c-1", "object": "chat.completion.chunk", "model": "gpt-5-2025-08-07", "created": 1}
    choice = {"index": 0, "delta": {"role": "assistant", "content": "twelve bytes"}, "finish_reason": None}
    yield f"data: {json.dumps(chunk | {'choices': [choice]})}\n\n".encode()
    raise ConnectionAbortedError


def script(request: dict) -> Say | CallTool | Fail | Raw:
    wanted = request.get("user", "say")
    if wanted == "slow":
        time.sleep(3)
    return {
        "slow": Say("too late"),
        "say": Say("one two three"),
        "tool": CallTool("refund", {"order_id": "o-1"}),
        "json": Say('{"n": 7}'),
        "busy": Fail(429, "slow down"),
        "used": Say("one two three", used=USED),
        "silent": Say("one two three", reports_usage=False),
        "garbage": Raw(b"data: {not json\n\n"),
        "hung_up": Raw(hung_up()),
    }[wanted]
