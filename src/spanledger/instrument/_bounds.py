"""How many tokens a request can have a model read: a bound from above, from the request alone.

Rules, which the README states for users:

* A text has at most as many tokens as it has bytes in UTF-8. Names, brackets and the like around it count as well and
  stand for what the provider puts around a message.
* Tools make a provider add instructions of its own; an image counts as the dearest of any provider we know.
* A file, a hosted tool, or what is found or kept at the provider cannot be counted here: there is no bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

REQUEST_TOKENS: Final = 64
"""What a provider may add to any request."""
TOOLS_TOKENS: Final = 1_024
"""What a provider may add to a request with tools."""
IMAGE_TOKENS: Final = 50_000
"""An image of the highest detail where that is dearest: eight tiles of gpt-4o-mini."""

_DEPTH_MAX = 64
_ITEM_TOKENS = 4

_NOT_READ = frozenset({"extra_headers", "extra_query", "timeout", "stream", "stream_options"})
# What is kept at the provider, or found by it, and read from there.
_REFERENCES = frozenset(
    {"previous_response_id", "conversation", "prompt", "container", "mcp_servers", "file_id", "web_search_options"}
)
# The same, of what is in a request.
_IDS = frozenset({"file_id", "previous_message_id"})
_IMAGES = frozenset({"image_url", "input_image", "image"})
_FILES = frozenset({"file", "input_file", "document", "container_upload", "item_reference"})
# Tools that the program runs itself; all others are run by the provider, which has the model read what they find.
_OWN_TOOLS = ("function", "custom", "bash_", "text_editor_", "memory_", "computer_", "local_shell", "apply_patch")


class _NoBound(Exception):
    """The request refers to what it does not hold."""


def input_tokens(request: Mapping[str, Any]) -> int | None:
    """Count the most tokens a request can have a model read.

    Args:
        request: The keyword arguments of the call; iterators among them are not touched, and have no bound.

    Returns:
        The bound; None where the request refers to what it does not hold.
    """
    try:
        total = REQUEST_TOKENS
        for name, value in request.items():
            if name in _NOT_READ or _is_absent(value):
                continue
            if name in _REFERENCES and not (name == "prompt" and isinstance(value, str)):
                return None
            total += _tools(value) if name == "tools" else len(name) + _weight(value, 0)
    except _NoBound:
        return None
    return total


def kept(request: dict[str, Any]) -> dict[str, Any]:
    """Make lists of the iterators in a request, which can be read only once."""
    return {name: list(value) if isinstance(value, Iterator) else value for name, value in request.items()}


def _is_absent(value: Any) -> bool:
    # The clients' own ways to say nothing.
    return value is None or type(value).__name__ in ("NotGiven", "Omit")


def _tools(tools: Iterable[Any]) -> int:
    if isinstance(tools, Iterator):
        raise _NoBound
    total = TOOLS_TOKENS
    for tool in tools:
        kind = tool.get("type") if isinstance(tool, Mapping) else getattr(tool, "type", None)
        if kind is not None and not str(kind).startswith(_OWN_TOOLS):
            raise _NoBound
        total += _weight(tool, 1)
    return total


def _weight(value: Any, depth: int) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass")) + 2
    if value is None or isinstance(value, bool | int | float):
        return len(repr(value))
    if depth > _DEPTH_MAX or isinstance(value, Iterator):
        raise _NoBound
    if isinstance(value, Mapping):
        return _mapping_weight(value, depth)
    if isinstance(value, list | tuple | set | frozenset):
        return sum(_weight(item, depth + 1) + _ITEM_TOKENS for item in value)
    return _weight(_as_data(value), depth + 1)


def _mapping_weight(value: Mapping[Any, Any], depth: int) -> int:
    kind = value.get("type")
    if isinstance(kind, str):
        if kind in _IMAGES:
            return IMAGE_TOKENS
        if kind in _FILES and not _holds_text(value):
            raise _NoBound
    total = 0
    for name, item in value.items():
        if name in _IDS:
            raise _NoBound
        if not _is_absent(item):
            total += len(str(name).encode()) + _weight(item, depth + 1) + _ITEM_TOKENS
    return total


def _holds_text(part: Mapping[Any, Any]) -> bool:
    source = part.get("source")
    return isinstance(source, Mapping) and source.get("type") in ("text", "content")


def _as_data(value: Any) -> Any:
    """A client's own object, or the type of an answer, as plain data."""
    try:
        if isinstance(value, type):
            return value.model_json_schema()  # type: ignore[attr-defined]
        return value.model_dump(exclude_none=True)
    except Exception:  # noqa: BLE001 - whatever it is, it cannot be counted
        raise _NoBound from None
