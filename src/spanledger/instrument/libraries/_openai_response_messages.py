"""What is said in responses of the OpenAI client.

Rules: an answer is one message, of all items that the model has made. What is kept at the provider is not in a request.
Of a stream the last event holds all; until it comes, the items are put together from their pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from spanledger.core import parts
from spanledger.core.messages import Asked, Message, Pieces, field, listed, plain, read_json, worded
from spanledger.instrument.libraries._openai_messages import parts_of, read_tool
from spanledger.instrument.library import Messages

_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
_CALLS = {"function_call": "arguments", "custom_tool_call": "input", "computer_call": "action",
          "local_shell_call": "action", "shell_call": "action", "apply_patch_call": "operation"}  # fmt: skip
_SERVER_CALLS = frozenset(
    {"web_search_call", "file_search_call", "code_interpreter_call", "mcp_call", "image_generation_call"}
)
_REASONS = {"completed": "stop", "max_output_tokens": "length", "failed": "error"}
# Pieces of what a part says, or a call is made with.
_PIECES = {
    "response.output_text.delta": "content",
    "response.refusal.delta": "content",
    "response.reasoning_text.delta": "summary",
    "response.reasoning_summary_text.delta": "summary",
    "response.function_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
}


def asked(kwargs: Mapping[str, Any]) -> Asked:
    """Read what a request asks."""
    given = kwargs.get("input")
    instructions = parts.text(kwargs.get("instructions"))
    return Asked(
        input=[parts.message("user", [parts.text(given)])] if worded(given) else [*map(read_item, listed(given))],
        system=[instructions] if instructions else [],
        tools=[read_tool(tool, tool) for tool in listed(kwargs.get("tools"))],
    )


def answered(response: Any) -> list[Message]:
    """Read what a response answers."""
    items = listed(field(response, "output")) or [*(field(response, "items") or {}).values()]
    told = [part for item in items for part in _parts(item) if part is not None]
    if not told:
        return []
    reason = field(field(response, "incomplete_details"), "reason") or field(response, "status")
    if reason == "completed" and any(part["type"] == "tool_call" for part in told):
        reason = "tool_call"
    return [parts.message("assistant", told, finish_reason=_REASONS.get(reason, reason) if worded(reason) else None)]


def gather(answer: dict[str, Any], event: Any) -> None:
    """Add an event of a stream."""
    kind = field(event, "type")
    if kind in _ENDS:
        response = field(event, "response")
        answer.update({name: field(response, name) for name in ("output", "status", "incomplete_details")})
        return
    items, index = answer.setdefault("items", {}), field(event, "output_index")
    if kind == "response.output_item.done":
        items[index] = field(event, "item")
    elif kind == "response.output_item.added":
        item = field(event, "item")
        items[index] = {name: field(item, name) for name in ("type", "id", "call_id", "name")}
    elif kind in _PIECES and isinstance(items.get(index), dict):
        items[index].setdefault(_PIECES[kind], Pieces()).add(field(event, "delta"))


def read_item(item: Any) -> Message:
    """Read an item of a request or an answer."""
    kind = field(item, "type") or "message"
    role = {"message": field(item, "role")}.get(kind, "tool" if str(kind).endswith("_output") else "assistant")
    return parts.message(role, _parts(item))


def _parts(item: Any) -> Iterator[Message | None]:
    kind = str(field(item, "type") or "message")
    call_id = field(item, "call_id") or field(item, "id")
    if kind == "message":
        yield from parts_of(field(item, "content"))
    elif kind in _CALLS:
        name = field(item, "name") or kind.removesuffix("_call")
        made = field(item, _CALLS[kind])
        yield parts.tool_call(call_id, name, read_json(made) if kind == "function_call" else plain(made))
    elif kind.endswith("_output"):
        yield parts.tool_response(call_id, _output(field(item, "output")))
    elif kind == "reasoning":
        yield from _thoughts(item)
    elif kind == "image_generation_call":
        yield parts.server_call(call_id, "image_generation", {"type": "image_generation"})
        yield parts.blob("image", None, field(item, "result"))
    elif kind in _SERVER_CALLS:
        yield from _of_server(kind.removesuffix("_call"), call_id, item)


def _output(output: Any) -> Any:
    # A list is the content of a message; of what else it may be nothing binary is known.
    if listed(output):
        return [part for part in parts_of(output) if part is not None]
    if field(output, "type") == "computer_screenshot":
        return {"type": "computer_screenshot"}
    return plain(output)


def _thoughts(item: Any) -> Iterator[Message | None]:
    told = field(item, "summary")
    if isinstance(told, Pieces):
        yield parts.reasoning(told)
    for thought in [*listed(told), *listed(field(item, "content"))]:
        yield parts.reasoning(field(thought, "text"))


def _of_server(name: str, call_id: Any, item: Any) -> Iterator[Message]:
    made = {"type": name, "name": field(item, "name"), "arguments": read_json(field(item, "arguments"))}
    made |= {key: plain(field(item, key)) for key in ("action", "queries", "code")}
    yield parts.server_call(call_id, name, {key: value for key, value in made.items() if value is not None})
    gave = field(item, "results") or field(item, "outputs") or field(item, "output")
    if gave is not None:
        yield parts.server_response(call_id, {"type": name, "output": plain(gave)})


MESSAGES = Messages(asked, answered, gather)
