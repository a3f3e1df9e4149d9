"""What is said in runs of Pydantic AI.

Rules: instructions are known when the run is over, since functions make them anew. Of what is no text, there is its
kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from spanledger.core import parts
from spanledger.core.messages import Asked, Message, listed, plain, read_json, worded
from spanledger.instrument.library import Conversation


def asked(_agent: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Asked:
    """Read what an agent is asked."""
    before = [one for message in listed(kwargs.get("message_history")) for one in _read(message)]
    prompt = args[0] if args else kwargs.get("user_prompt")
    now = [] if prompt is None else [parts.message("user", _content(prompt))]
    return Asked([one for one in before if one["role"] != "system"] + now)


def followed(_agent: Any, _args: tuple[Any, ...], _kwargs: Mapping[str, Any], run: Any) -> list[Message]:
    """Read what was said in a run."""
    return [one for message in run.all_messages() for one in _read(message)]


def _read(message: Any) -> Iterator[Message]:
    if message.kind == "response":
        reason = worded(getattr(message, "finish_reason", None))
        yield parts.message("assistant", map(_answered, message.parts), finish_reason=reason)
        return
    instructions = parts.text(getattr(message, "instructions", None))
    if instructions:
        yield parts.message("system", [instructions])
    for part in message.parts:
        if part.part_kind == "system-prompt":
            yield parts.message("system", [parts.text(part.content)])
        elif part.part_kind == "user-prompt":
            yield parts.message("user", _content(part.content))
        elif getattr(part, "tool_name", None):
            yield parts.message("tool", [parts.tool_response(part.tool_call_id, plain(part.content))])
        else:
            yield parts.message("user", _content(getattr(part, "content", None)))


def _content(content: Any) -> list[Message | None]:
    if isinstance(content, str):
        return [parts.text(content)]
    return [parts.text(one) if isinstance(one, str) else _kind(one) for one in listed(content)]


def _answered(part: Any) -> Message | None:
    if part.part_kind == "text":
        return parts.text(part.content)
    if part.part_kind == "thinking":
        return parts.reasoning(part.content)
    if part.part_kind == "tool-call":
        return parts.tool_call(part.tool_call_id, part.tool_name, read_json(part.args))
    return {"type": part.part_kind}


def _kind(content: Any) -> Message:
    return {"type": str(getattr(content, "kind", "unknown"))}


CONVERSATION = Conversation(asked, followed)
