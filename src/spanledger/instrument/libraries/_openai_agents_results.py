"""What function tools of the OpenAI Agents SDK give: plain values, the SDK's own texts, images and files.

Rules: these types come back, and those that the tool's function is annotated with; a row of the ledger names none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanledger.core.call import Call
from spanledger.instrument._results import TypedCodec, also_returned


class OutputCodec(TypedCodec):
    """Keeps plain values, the SDK's own texts, images and files, and what the tool's function is annotated with."""

    def encode(self, result: Any) -> Any:
        """Turn what a tool gave into a JSON tree."""
        return super().encode(result.output)

    def decode(self, tree: Any, call: Call) -> Any:
        """Turn a tree, or what a probe found out, into what the function would return now."""
        from agents.tool import _FunctionToolInvocationResult

        return _FunctionToolInvocationResult(super().decode(tree, call))


def codec_of(_instance: Any, _args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> OutputCodec:
    """Say how the outputs of a tool are kept."""
    from agents.tool import ToolOutputFileContent, ToolOutputImage, ToolOutputText

    function = getattr(kwargs["function_tool"], "__wrapped__", None)
    output = ToolOutputText | ToolOutputImage | ToolOutputFileContent
    return OutputCodec(also_returned(function, output, list[output]))
