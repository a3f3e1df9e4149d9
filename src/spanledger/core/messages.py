"""Messages: what a model is asked and what it answers, in the form of OpenTelemetry's GenAI conventions.

Rules: they are JSON trees, made of whatever a client takes and gives. What is of no form that is known here is left
out, and what can be read only once is not touched. Nothing binary is copied: of an image there is its kind and size.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

Tree = Any
Message = dict[str, Any]

GATHERED_CHARS_MAX: Final = 1_048_576
"""Of a longer streamed text the beginning is read."""
ITEMS_MAX: Final = 1_024
"""Of longer lists in a message the beginning is read."""
DEPTH_MAX: Final = 32
"""What lies deeper in a message is left out."""

_LEFT_OUT: Final = object()
_ADDRESS_HEAD_CHARS_MAX: Final = 128
# What has its content in base64 under "data".
_BINARY: Final = frozenset({"base64", "image", "audio"})


@dataclass(frozen=True, slots=True)
class Asked:
    """What a model is asked.

    Attributes:
        input: The messages.
        system: What it is told apart from them, as parts of a message.
        tools: What it may call.
    """

    input: list[Message] = dataclasses.field(default_factory=list)
    system: list[Message] = dataclasses.field(default_factory=list)
    tools: list[Message] = dataclasses.field(default_factory=list)


class Pieces:
    """A text that arrives in pieces, up to a size."""

    __slots__ = ("_chars", "_pieces")

    def __init__(self, text: Any = None) -> None:
        self._pieces: list[str] = []
        self._chars = 0
        self.add(text)

    def add(self, text: Any) -> None:
        """Add a piece; what is no text says nothing."""
        if isinstance(text, str):
            if self._chars < GATHERED_CHARS_MAX and text:
                self._pieces.append(text[: GATHERED_CHARS_MAX - self._chars])
            self._chars += len(text)

    def __str__(self) -> str:
        left = self._chars - GATHERED_CHARS_MAX
        return "".join(self._pieces) + (more(left) if left > 0 else "")


# --- reading


def field(thing: Any, name: str) -> Any:
    """Read a field of an object or a mapping; None where it has none."""
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def listed(value: Any) -> list[Any]:
    """Return the items of a list; nothing for what is none, and what can be read only once is not touched."""
    return list(value) if isinstance(value, list | tuple) else []


def worded(value: Any) -> str | None:
    """Return a text that is one, whole or in pieces."""
    return str(value) if isinstance(value, str | Pieces) and str(value) else None


def plain(value: Any, depth: int = 0) -> Tree:
    """Make a JSON tree of whatever a client takes: mappings, lists, models, records; None for what has no form."""
    tree = _plain(value, depth)
    return None if tree is _LEFT_OUT else tree


def read_json(text: Any) -> Tree:
    """Return the tree that a text stands for; a text that is no JSON as it is."""
    if not isinstance(text, str | Pieces):
        return plain(text)
    try:
        return plain(json.loads(str(text)))
    except (ValueError, RecursionError):
        return str(text)


def _plain(value: Any, depth: int) -> Tree:
    if value is None or isinstance(value, bool | int):
        return int(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(value, str | Pieces):
        return _unloaded(str(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else _LEFT_OUT
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if depth >= DEPTH_MAX:
        return _LEFT_OUT
    if isinstance(value, Mapping):
        if isinstance(value.get("data"), str) and value.get("type") in _BINARY:
            return {"type": value["type"], "size_bytes": len(value["data"]) * 3 // 4}
        pairs = ((str(key), _plain(item, depth + 1)) for key, item in list(value.items())[:ITEMS_MAX])
        return {key: item for key, item in pairs if item is not _LEFT_OUT}
    if isinstance(value, list | tuple | set | frozenset):
        items = (_plain(item, depth + 1) for item in list(value)[:ITEMS_MAX])
        return [item for item in items if item is not _LEFT_OUT]
    return _of_object(value, depth)


def _unloaded(text: str) -> str:
    """Leave out what an address holds itself."""
    begins = text[:_ADDRESS_HEAD_CHARS_MAX]
    if not begins.startswith("data:") or ";base64," not in begins:
        return text
    address, _, content = text.partition(",")
    return f"{address},{more(len(content))}"


def _of_object(value: Any, depth: int) -> Tree:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({one.name: getattr(value, one.name) for one in dataclasses.fields(value)}, depth)
    dump = getattr(value, "model_dump", None)
    if not callable(dump) or isinstance(value, type):
        return _LEFT_OUT
    return _plain(dump(exclude_none=True), depth)


def more(chars: int) -> str:
    """Say how much of a text is missing."""
    return f"… [{chars} more characters]"
