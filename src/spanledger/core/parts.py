"""The parts of messages, each in the form of OpenTelemetry's GenAI conventions.

Rules: whatever a client takes or gives may stand here, and nothing raises. Nothing binary is copied: there is its kind
and its size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from spanledger.core.messages import Message, Tree, plain, worded


def message(role: Any, parts: Iterable[Message | None], **more: Any) -> Message:
    """Make a message.

    Args:
        role: Who says it.
        parts: What is said; those that are None are left out.
        **more: Further fields; those that are None are left out.
    """
    said = [part for part in parts if part is not None]
    return {"role": worded(role) or "user", "parts": said} | {name: v for name, v in more.items() if v is not None}


def text(content: Any) -> Message | None:
    """Make a part of a text; None where there is none."""
    words = worded(content)
    return None if words is None else {"type": "text", "content": words}


def reasoning(content: Any) -> Message | None:
    """Make a part of what a model thought; None where it is not told."""
    words = worded(content)
    return None if words is None else {"type": "reasoning", "content": words}


def tool_call(call_id: Any, name: Any, arguments: Tree) -> Message:
    """Make a part of a tool that the model wants called."""
    return {"type": "tool_call", "id": worded(call_id), "name": worded(name) or "", "arguments": arguments}


def tool_response(call_id: Any, response: Tree) -> Message:
    """Make a part of what a tool gave."""
    return {"type": "tool_call_response", "id": worded(call_id), "response": response}


def server_call(call_id: Any, name: Any, details: Tree) -> Message:
    """Make a part of a tool that the provider runs."""
    return {"type": "server_tool_call", "id": worded(call_id), "name": worded(name) or "", "server_tool_call": details}


def server_response(call_id: Any, details: Tree) -> Message:
    """Make a part of what a tool of the provider gave."""
    return {"type": "server_tool_call_response", "id": worded(call_id), "server_tool_call_response": details}


def blob(modality: str, mime_type: Any, encoded: Any) -> Message:
    """Make a part of something binary, which is not copied.

    Args:
        modality: ``"image"``, ``"audio"``, ``"video"`` or ``"document"``.
        mime_type: Its kind, where it is known.
        encoded: The content in base64, of which the length is told.
    """
    size = len(encoded) * 3 // 4 if isinstance(encoded, str | bytes) else None
    return {"type": "blob", "modality": modality, "mime_type": worded(mime_type), "size_bytes": size}


def linked(modality: str, url: Any) -> Message | None:
    """Make a part of something at an address; where the address holds the content, that is not copied."""
    if not isinstance(url, str) or not url:
        return None
    if not url.startswith("data:"):
        return {"type": "uri", "modality": modality, "uri": url}
    head, _, content = url[5:].partition(",")
    return blob(modality, head.partition(";")[0], content)


def file(modality: str, file_id: Any) -> Message | None:
    """Make a part of a file that the provider has."""
    return None if worded(file_id) is None else {"type": "file", "modality": modality, "file_id": file_id}


def function(name: Any, description: Any, parameters: Any) -> Message:
    """Make the definition of a function that the model may call."""
    made = {"type": "function", "name": worded(name) or "", "description": worded(description)}
    return {key: value for key, value in (made | {"parameters": plain(parameters)}).items() if value is not None}


def other_tool(kind: Any, name: Any) -> Message:
    """Make the definition of a tool that is no function of the program's."""
    return {"type": worded(kind) or "unknown", "name": worded(name) or worded(kind) or "unknown"}
