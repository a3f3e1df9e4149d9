"""What is said in messages of the Anthropic client, beta ones as well.

Rules: what a tool gave is a part of the message it is sent in. Thoughts that the provider hides are left out. Of
a stream each block is put together from its pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from spanledger.core import parts
from spanledger.core.messages import Asked, Message, Pieces, field, listed, plain, read_json, worded
from spanledger.instrument.library import Messages

_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_call",
    "refusal": "content_filter",
}
# Pieces of a block, and the field of it that they belong to.
_PIECES = {"text": "text", "thinking": "thinking", "partial_json": "input"}


def asked(kwargs: Mapping[str, Any]) -> Asked:
    """Read what a request asks."""
    return Asked(
        input=[
            parts.message(field(one, "role"), _parts(field(one, "content"))) for one in listed(kwargs.get("messages"))
        ],
        system=[part for part in _parts(kwargs.get("system")) if part is not None],
        tools=[_tool(tool) for tool in listed(kwargs.get("tools"))],
    )


def answered(answer: Any) -> list[Message]:
    """Read what a message answers."""
    found = field(answer, "content")
    told = [*filter(None, _parts([*found.values()] if isinstance(found, dict) else found))]
    if not told:
        return []
    reason = field(answer, "stop_reason")
    return [parts.message(field(answer, "role") or "assistant", told, finish_reason=_REASONS.get(reason, reason))]


def gather(answer: dict[str, Any], event: Any) -> None:
    """Add an event of a stream."""
    match field(event, "type"):
        case "content_block_start":
            blocks, block = answer.setdefault("content", {}), field(event, "content_block")
            blocks[field(event, "index")] = _opened(block)
        case "content_block_delta":
            block, delta = answer.get("content", {}).get(field(event, "index")), field(event, "delta")
            for name, of_block in _PIECES.items():
                if isinstance(block, dict) and (piece := field(delta, name)) is not None:
                    _pieces(block, of_block).add(piece)
        case "message_delta":
            answer["stop_reason"] = field(field(event, "delta"), "stop_reason")


def _opened(block: Any) -> Any:
    """A block as it begins; what grows is copied, since the client goes on with its own."""
    kind = field(block, "type")
    if kind in ("text", "thinking", "tool_use", "server_tool_use", "mcp_tool_use"):
        texts = {name: Pieces(field(block, name)) for name in ("text", "thinking")}
        return texts | {"type": kind, "id": field(block, "id"), "name": field(block, "name"), "input": {}}
    return block


def _pieces(block: dict[str, Any], name: str) -> Pieces:
    if not isinstance(block.get(name), Pieces):
        block[name] = Pieces()
    pieces: Pieces = block[name]
    return pieces


def _parts(content: Any) -> Iterator[Message | None]:
    if worded(content):
        yield parts.text(content)
    for block in listed(content):
        yield parts.text(block) if isinstance(block, str) else _part(block)


def _part(block: Any) -> Message | None:
    kind = str(field(block, "type") or "")
    block_id, name = field(block, "id"), field(block, "name")
    match kind:
        case "text":
            return parts.text(field(block, "text"))
        case "thinking":
            return parts.reasoning(field(block, "thinking"))
        case "tool_use":
            return parts.tool_call(block_id, name, read_json(field(block, "input")))
        case "server_tool_use" | "mcp_tool_use":
            return parts.server_call(block_id, name, {"type": name, "input": read_json(field(block, "input"))})
        case "tool_result":
            return parts.tool_response(field(block, "tool_use_id"), _result(field(block, "content")))
        case "image" | "document":
            return _attached("document" if kind == "document" else "image", field(block, "source"))
    if kind.endswith("_tool_result"):
        details = {"type": kind.removesuffix("_tool_result"), "content": plain(field(block, "content"))}
        return parts.server_response(field(block, "tool_use_id"), details)
    return None


def _result(content: Any) -> Any:
    return [*filter(None, _parts(content))] if listed(content) else plain(content)


def _attached(modality: str, source: Any) -> Message | None:
    match field(source, "type"):
        case "base64":
            return parts.blob(modality, field(source, "media_type"), field(source, "data"))
        case "url":
            return parts.linked(modality, field(source, "url"))
        case "file":
            return parts.file(modality, field(source, "file_id"))
        case "text":
            return parts.text(field(source, "data"))
    return None


def _tool(tool: Any) -> Message:
    if field(tool, "input_schema") is None and field(tool, "type") not in (None, "custom"):
        return parts.other_tool(field(tool, "type"), field(tool, "name"))
    return parts.function(field(tool, "name"), field(tool, "description"), field(tool, "input_schema"))


MESSAGES = Messages(asked, answered, gather)
