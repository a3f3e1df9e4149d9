"""What is said in one model call, as it may be seen and as much as is recorded.

Rules: what a rule redacts of a tool is redacted as well where a model asks for that tool and where it is told the
result, and what was redacted anywhere is masked wherever it is said again. A part of a message is a document of its
own, and so are a tool's arguments and its result. It fails closed: what nobody can tell apart is masked as a whole.
Redaction comes before cutting, so that no cut hides a place from it. The last messages count most.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from spanledger.core.messages import Asked, Message, Tree, more
from spanledger.core.redaction import MASK, Redactor

TEXT_CHARS_MAX: Final = 16_384
"""Of a longer text the beginning is recorded."""
MESSAGES_BYTES_MAX: Final = 131_072
"""Of more messages in one attribute the last are recorded."""

_VALUES: Final = {"tool_call": "arguments", "tool_call_response": "response"}


@dataclass(frozen=True, slots=True)
class Said:
    """What is said in one model call: what the model is asked and what it answers."""

    asked: Asked
    output: list[Message]

    def seen(self, redactor: Redactor, of_tool: Callable[[str], Redactor]) -> Said:
        """Return what may be seen of it.

        Args:
            redactor: Of the model's rule.
            of_tool: Name of a tool → what leaves out what its rule and the model's redact; "" → what any rule redacts.
        """
        if not of_tool("").redact:
            return self
        veil = _Veil(redactor, of_tool, [*self.asked.input, *self.output])
        asked = self.asked
        seen = Asked(veil.messages(asked.input), veil.parts(asked.system), veil.parts(asked.tools))
        return Said(seen, veil.messages(self.output))


class _Veil:
    """Leaves out of a conversation what the rules of its model and of its tools redact."""

    def __init__(self, redactor: Redactor, of_tool: Callable[[str], Redactor], messages: list[Message]) -> None:
        self._model = redactor
        self._of_tool = functools.cache(of_tool)
        parts = [part for said in messages for part in said["parts"]]
        calls = [part for part in parts if part["type"] == "tool_call"]
        self._calls = {part["id"]: part for part in calls if part["id"] is not None}
        told = [part for part in parts if part["type"] in _VALUES]
        self._taken = {text for part in told for text in self._redactor(part).taken(part[_VALUES[part["type"]]])}

    def messages(self, messages: list[Message]) -> list[Message]:
        """Return messages as they may be seen."""
        return [said | {"parts": self.parts(said["parts"])} for said in messages]

    def parts(self, parts: list[Message]) -> list[Message]:
        """Return parts, or tools, as they may be seen."""
        return [*map(self._part, parts)]

    def _part(self, part: Message) -> Message:
        name = _VALUES.get(part["type"])
        if name is not None:
            return part | {name: self._unrepeated(self._value(part, part[name]))}
        seen = self._unrepeated(self._model.document(part))
        return seen if isinstance(seen, dict) and "type" in seen else {"type": "text", "content": MASK}

    def _value(self, part: Message, value: Tree) -> Tree:
        redactor = self._redactor(part)
        if part["type"] == "tool_call":
            # Text where JSON has to be.
            return redactor.text(value) if isinstance(value, str) else redactor.document(value)
        asked = self._calls.get(part["id"])
        if asked is None:
            return MASK
        return redactor.knowing(asked["arguments"]).document(value)

    def _redactor(self, part: Message) -> Redactor:
        asked = part if part["type"] == "tool_call" else self._calls.get(part["id"])
        return self._of_tool("" if asked is None else asked["name"])

    def _unrepeated(self, tree: Tree) -> Tree:
        if isinstance(tree, dict):
            return {key: self._unrepeated(item) for key, item in tree.items()}
        if isinstance(tree, list):
            return [self._unrepeated(item) for item in tree]
        if isinstance(tree, str | int | float) and any(taken in str(tree) for taken in self._taken):
            return MASK
        return tree


def fitting(messages: list[Message]) -> tuple[list[Message], bool]:
    """Cut messages, parts or tools to what is recorded, and tell whether anything is missing.

    Returns:
        The messages; whether some were left out or cut.
    """
    kept: list[Message] = []
    left, cut = MESSAGES_BYTES_MAX, False
    for said in reversed(messages):
        short = _shortened(said)
        left -= _bytes(short)
        if left < 0:
            kept += _beginning(short, left + _bytes(short))
            return kept[::-1], True
        cut = cut or short != said
        kept.append(short)
    return kept[::-1], cut


def _beginning(said: Message, bytes_max: int) -> list[Message]:
    """Of a message that is too long, the parts that are not."""
    parts: list[Message] = []
    left = bytes_max - _bytes(said | {"parts": []})
    for part in said.get("parts", ()):
        left -= _bytes(part)
        if left < 0:
            break
        parts.append(part)
    return [said | {"parts": parts}] if parts else []


def _bytes(tree: Tree) -> int:
    # As `json.dumps` writes it for whoever joins it with others.
    return len(json.dumps(tree, ensure_ascii=False).encode()) + 2


def _shortened(tree: Tree) -> Any:
    if isinstance(tree, dict):
        return {key: _shortened(item) for key, item in tree.items()}
    if isinstance(tree, list):
        return [_shortened(item) for item in tree]
    if not isinstance(tree, str):
        return tree
    if not tree.isascii():
        # Half of a surrogate pair would keep everything that is sent with it from being sent.
        tree = tree.encode("utf-8", "replace").decode()
    return tree if len(tree) <= TEXT_CHARS_MAX else tree[:TEXT_CHARS_MAX] + more(len(tree) - TEXT_CHARS_MAX)
