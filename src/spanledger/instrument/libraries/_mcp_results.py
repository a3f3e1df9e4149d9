"""Results of MCP tools, kept in the form in which they go over the wire.

Rules: of a kept tree only a `CallToolResult` and the kinds of content that it declares are made. Plain values come back
as `decode` gives them.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from typing import Any

from spanledger.core.call import Call
from spanledger.core.values import decode, exactly

# A key with one dollar sign cannot come from a tool: `encode` doubles those.
_KEPT = "$mcp"


def error_result(text: str) -> Any:
    """Make the result by which a tool says that it failed."""
    return _result({"content": [_text(text)], "isError": True})


class ResultCodec:
    """Keeps results in the form in which they go over the wire, and which of their shapes it was.

    A client gets a `CallToolResult`; a server's tool gives that, or content, or content and what it was made of, or the
    plain value of its function.
    """

    def encode(self, result: Any) -> Any:
        """Turn what a tool returned into a JSON tree."""
        from mcp.types import CallToolResult

        if type(result) is CallToolResult:
            return {_KEPT: ["result", _dumped(result)]}
        if isinstance(result, tuple) and len(result) == 2 and _are_blocks(result[0]):  # noqa: PLR2004 - a pair
            return {
                _KEPT: ["pair", {"content": list(map(_dumped, result[0])), "structuredContent": exactly(result[1])}]
            }
        if _are_blocks(result):
            return {_KEPT: ["content", {"content": list(map(_dumped, result))}]}
        return {_KEPT: ["value", exactly(result)]}

    def decode(self, tree: Any, call: Call) -> Any:  # noqa: ARG002 - nothing in a result belongs to one call
        """Turn a tree, or what a probe found out, into what the tool would return."""
        if not is_kept(tree):
            value = decode(tree)
            text = value if isinstance(value, str) else json.dumps(tree, ensure_ascii=False)
            structured = {"structuredContent": value} if isinstance(value, dict) else {}
            return _result({"content": [_text(text)], **structured})
        shape, body = tree[_KEPT]
        if shape == "value":
            return decode(body)
        if shape == "result":
            return _result(body)
        content = list(_result({"content": body["content"]}).content)
        return content if shape == "content" else (content, decode(body["structuredContent"]))


def is_kept(tree: Any) -> bool:
    """Tell whether a tree was made of a result of MCP."""
    return isinstance(tree, dict) and _KEPT in tree


def _dumped(model: Any) -> Any:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def _result(body: Mapping[str, Any]) -> Any:
    from mcp.types import CallToolResult

    return CallToolResult.model_validate(body)


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _are_blocks(value: Any) -> bool:
    from mcp.types import CallToolResult

    kinds = typing.get_args(typing.get_args(CallToolResult.model_fields["content"].annotation)[0])
    return isinstance(value, list) and bool(value) and all(type(item) in kinds for item in value)
