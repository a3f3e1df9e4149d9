"""What is said in runs of graphs whose state holds messages.

Rules: of a state that holds none nothing is told. What a run streams holds messages wherever its mode has them; a
message that comes again, as it does with every state, is the same one by its id. Pieces of messages that are streamed
are left to the message they are of. Only states and updates hold all that was said; of large ones, the beginning is
looked at, and numbers not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from spanledger.core import parts
from spanledger.core.messages import ITEMS_MAX, Asked, Message, field, listed, plain, worded
from spanledger.instrument.library import Conversation

_ROLES: Final = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
# A mode, a namespace, a node, its state, and what that is made of.
_DEPTH_MAX: Final = 8
_VISITED_MAX: Final = 16_384
_PLAIN: Final = frozenset({str, int, float, bool, bytes, type(None)})
_WHOLE: Final = frozenset({"values", "updates"})


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
    found, whole = _messages_in(item)
    messages = gathered.setdefault("messages", {})
    for message in found:
        if len(messages) < ITEMS_MAX or message.id in messages:
            messages[message.id or str(id(message))] = message
        else:
            whole = False
    gathered["whole"] = gathered.get("whole", True) and whole


def followed(
    graph: Any, _args: tuple[Any, ...], kwargs: Mapping[str, Any], gathered: Mapping[str, Any]
) -> list[Message] | None:
    """Read what was said in a run."""
    mode = kwargs.get("stream_mode") or graph.stream_mode
    streamed = {mode} if isinstance(mode, str) else {*mode}
    keys = kwargs.get("output_keys")
    some = keys is not None and not {*graph.stream_channels_list} <= {*([keys] if isinstance(keys, str) else keys)}
    if some or not streamed & _WHOLE or not gathered.get("whole", True):
        return None
    return [*map(_read, gathered.get("messages", {}).values())]


def _messages_in(item: Any) -> tuple[list[Any], bool]:
    """Return the messages in what was streamed, and whether all of it was looked at."""
    from langchain_core.messages import BaseMessage, BaseMessageChunk, convert_to_messages, message_chunk_to_message

    found: list[Any] = []
    pending, left, whole = [(item, 0)], _VISITED_MAX, True
    while pending:
        here, depth = pending.pop()
        if isinstance(here, BaseMessage):
            found.append(message_chunk_to_message(here) if isinstance(here, BaseMessageChunk) else here)
        elif isinstance(here, Mapping) and "role" in here and ("content" in here or "tool_calls" in here):
            found += convert_to_messages([{"content": "", **here}])
        elif isinstance(here, Mapping | list | tuple) and here:
            if isinstance(here, list) and isinstance(here[0], int | float):
                continue
            left -= len(here)
            if left < 0:
                return found, False
            # In a pair with what there is to say about it, it is a piece.
            left_out = (BaseMessageChunk,) if isinstance(here, tuple) else ()
            items = here.values() if isinstance(here, Mapping) else here
            inner = [(one, depth + 1) for one in items if type(one) not in _PLAIN and not isinstance(one, left_out)]
            if depth < _DEPTH_MAX:
                pending += reversed(inner)
            else:
                whole = whole and not inner
    return found, whole


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
