"""What Pydantic AI's tools return: plain values, the framework's contents, and both in a `ToolReturn`.

Rules: these types come back, and those that the tool's function is annotated with; a row of the ledger names none.
"""

from __future__ import annotations

from typing import Any

from spanledger.core.call import Call
from spanledger.instrument._results import TypedCodec

# A key with one dollar sign cannot come from a tool: `encode` doubles those.
_RETURN = "$tool_return"
_FIELDS = ("return_value", "content", "metadata", "tools")


class ReturnCodec(TypedCodec):
    """Keeps values as the tool's function is annotated, the framework's contents, and both in a `ToolReturn`."""

    def encode(self, result: Any) -> Any:
        """Turn what a tool returned into a JSON tree."""
        from pydantic_ai.messages import ToolReturn

        if type(result) is not ToolReturn:
            return super().encode(result)
        return {_RETURN: {name: super(ReturnCodec, self).encode(getattr(result, name, None)) for name in _FIELDS}}

    def decode(self, tree: Any, call: Call) -> Any:
        """Turn a tree, or what a probe found out, into what the tool would return now."""
        from pydantic_ai.messages import ToolReturn

        if not (isinstance(tree, dict) and _RETURN in tree):
            return super().decode(tree, call)
        kept = tree[_RETURN]
        fields = {name: super(ReturnCodec, self).decode(kept[name], call) for name in _FIELDS if kept.get(name)}
        return ToolReturn(fields.pop("return_value", None), **fields)
