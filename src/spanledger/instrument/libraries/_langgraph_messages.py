"""What is said in runs of graphs whose state holds messages.

Rules: of a state that holds none nothing is told. What a run streams holds messages wherever its mode has them; a
message that comes again, as it does with every state, is the same one by its id. Pieces of messages are left to the
message they are of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from spanledger.core import parts
from spanledger.core.messages import ITEMS_MAX, Asked, Message, field, listed, plain, worded
from spanledger.instrument.library import Conversation

_ROLES: Final = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
# A mode, a namespace, a node and its state.
_DEPTH_MAX: Final = 5


def asked(_graph: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Asked:
    """Read what a graph is asked."""
    from langchain_core.messages import convert_to_messages

    given = args[0] if args else kwargs.get("input")
    if not isinstance(given, Mapping) or "messages" not in given:
        return Asked()
    messages = given["messages"]
    return Asked([*map(_read, convert_to_messages(messages if isinstance(messages, list | tuple) else [messages]))])


def gather(gathered: dict[str, Any], item: Any) -> None:
    """Keep the messages of what a run has yielded."""
    for message in _messages_in(item, _DEPTH_MAX):
        if len(gathered) < ITEMS_MAX or message.id in gathered:
            gathered[message.id or str(id(message))] = message


def followed(_graph: Any, _args: tuple[Any, ...], _kwargs: Mapping[str, Any], gathered: Any) -> list[Message]:
    """Read what was said in a run."""
    return [*map(_read, gathered.values())]


def _messages_in(item: Any, depth: int) -> Iterator[Any]:
    from langchain_core.messages import BaseMessage, BaseMessageChunk

    if isinstance(item, BaseMessage):
        if not isinstance(item, BaseMessageChunk):
            yield item
    elif depth and isinstance(item, Mapping | list | tuple):
        for inner in item.values() if isinstance(item, Mapping) else item:
            yield from _messages_in(inner, depth - 1)


def _read(message: Any) -> Message:
    role = _ROLES.get(message.type, message.type)
    if role == "tool":
        return parts.message(role, [parts.tool_response(message.tool_call_id, plain(message.content))])
    calls = [parts.tool_call(field(c, "id"), field(c, "name"), plain(field(c, "args")))
             for c in listed(getattr(message, "tool_calls", None))]  # fmt: skip
    return parts.message(role, [*map(_part, _blocks(message.content)), *calls])


def _blocks(content: Any) -> list[Any]:
    return [content] if isinstance(content, str) else listed(content)


def _part(block: Any) -> Message | None:
    if isinstance(block, str):
        return parts.text(block)
    kind = worded(field(block, "type")) or "unknown"
    if kind == "text":
        return parts.text(field(block, "text"))
    if kind in ("reasoning", "thinking"):
        return parts.reasoning(field(block, kind))
    # Calls of tools are told from where they all are.
    return None if kind in ("tool_use", "tool_call", "function_call") else {"type": kind}


CONVERSATION = Conversation(asked, followed, gather)
