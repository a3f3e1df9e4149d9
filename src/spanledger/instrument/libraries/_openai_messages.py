"""What is said in chat completions of the OpenAI client.

Rules: instructions are messages of the conversation here. A refusal is what the model says, so it is text. Of a stream
each choice is put together from its pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from spanledger.core import parts
from spanledger.core.messages import Asked, Message, Pieces, field, listed, plain, read_json, worded
from spanledger.instrument.library import Messages

_AUDIO = {"wav": "audio/wav", "mp3": "audio/mpeg"}
_REASONS = {"tool_calls": "tool_call", "function_call": "tool_call"}


def asked(kwargs: Mapping[str, Any]) -> Asked:
    """Read what a request asks."""
    return Asked(
        input=[_asked_message(one) for one in listed(kwargs.get("messages"))],
        tools=[_tool(one) for one in listed(kwargs.get("tools"))],
    )


def answered(completion: Any) -> list[Message]:
    """Read what a completion answers."""
    found = field(completion, "choices")
    choices = found.values() if isinstance(found, dict) else listed(found)
    return [
        parts.message(
            field(field(choice, "message"), "role") or "assistant",
            _said(field(choice, "message")),
            finish_reason=_reason(field(choice, "finish_reason")),
        )
        for choice in choices
    ]


def gather(answer: dict[str, Any], chunk: Any) -> None:
    """Add a chunk of a stream."""
    choices = answer.setdefault("choices", {})
    for choice in listed(field(chunk, "choices")):
        kept = choices.setdefault(field(choice, "index"), {"message": {"tool_calls": {}}})
        kept["finish_reason"] = field(choice, "finish_reason") or kept.get("finish_reason")
        delta, told = field(choice, "delta"), kept["message"]
        told["role"] = field(delta, "role") or told.get("role")
        for name in ("content", "refusal", "reasoning_content"):
            told.setdefault(name, Pieces()).add(field(delta, name))
        for call in listed(field(delta, "tool_calls")):
            _gather_call(told["tool_calls"], call)


def parts_of(content: Any) -> Iterator[Message | None]:
    """Read the content of a message, of chats and of responses."""
    if worded(content):
        yield parts.text(content)
    for item in listed(content):
        yield parts.text(item) if isinstance(item, str) else _content_part(item)


def read_tool(tool: Any, described: Any) -> Message:
    """Read the definition of a tool.

    Args:
        tool: The definition.
        described: What of it describes a function; None where it is none.
    """
    if field(tool, "type") != "function" or described is None:
        return parts.other_tool(field(tool, "type"), field(field(tool, "custom") or tool, "name"))
    return parts.function(field(described, "name"), field(described, "description"), field(described, "parameters"))


def _asked_message(one: Any) -> Message:
    role = field(one, "role")
    if role != "tool":
        return parts.message(role, _said(one), name=worded(field(one, "name")))
    content = field(one, "content")
    response = [*filter(None, parts_of(content))] if listed(content) else plain(content)
    return parts.message(role, [parts.tool_response(field(one, "tool_call_id"), response)])


def _said(one: Any) -> Iterator[Message | None]:
    calls = field(one, "tool_calls")
    yield parts.reasoning(field(one, "reasoning_content"))
    for call in calls.values() if isinstance(calls, dict) else listed(calls):
        called = field(call, "custom") or field(call, "function")
        arguments = field(called, "input") or read_json(field(called, "arguments"))
        yield parts.tool_call(field(call, "id"), field(called, "name"), arguments)
    yield from parts_of(field(one, "content"))
    yield parts.text(field(one, "refusal"))
    if (audio := field(one, "audio")) is not None:
        yield parts.blob("audio", None, field(audio, "data"))
        yield parts.text(field(audio, "transcript"))


def _gather_call(calls: dict[Any, Any], call: Any) -> None:
    kept = calls.setdefault(field(call, "index"), {"function": {"arguments": Pieces()}})
    kept["id"] = field(call, "id") or kept.get("id")
    called = field(call, "function")
    kept["function"]["name"] = field(called, "name") or kept["function"].get("name")
    kept["function"]["arguments"].add(field(called, "arguments"))


def _content_part(item: Any) -> Message | None:
    match field(item, "type"):
        case "text" | "input_text" | "output_text":
            return parts.text(field(item, "text"))
        case "refusal":
            return parts.text(field(item, "refusal"))
        case "image_url" | "input_image":
            found = field(item, "image_url")
            return parts.linked("image", found if isinstance(found, str) else field(found, "url")) or _kept(
                "image", item
            )
        case "input_audio":
            audio = field(item, "input_audio")
            return parts.blob("audio", _AUDIO.get(str(field(audio, "format"))), field(audio, "data"))
        case "file" | "input_file":
            return _kept("document", field(item, "file") or item)
    return None


def _kept(modality: str, item: Any) -> Message | None:
    data = field(item, "file_data")
    if isinstance(data, str) and data:
        return parts.linked(modality, data) if data.startswith("data:") else parts.blob(modality, None, data)
    return parts.file(modality, field(item, "file_id")) or parts.linked(modality, field(item, "file_url"))


def _tool(tool: Any) -> Message:
    return read_tool(tool, field(tool, "function"))


def _reason(said: Any) -> str | None:
    return _REASONS.get(said, said) if isinstance(said, str) else None


MESSAGES = Messages(asked, answered, gather)
