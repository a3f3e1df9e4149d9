"""Anthropic's tool runner: `client.beta.messages.tool_runner(tools=[…])`.

Rules: the runner makes a result of what a tool raises, so the exception is noted where it does. A replayed result goes
to the id that asks now. Before 1.9 the runner called its tools in the midst of a loop; there the tools themselves are
wrapped, and no id is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanledger.core.call import Call
from spanledger.core.values import decode, exactly
from spanledger.instrument.library import Wrap

_RUNNER = "anthropic.lib.tools._beta_runner"
_FUNCTIONS = "anthropic.lib.tools._beta_functions"


def describe(_runner: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Read a call of `_run_tool` or `_run_toolset_member`."""
    asked = kwargs.get("tool_use") or args[-1]
    return Call(name=asked.name, arguments=asked.input, call_id=asked.id)


def describe_function(tool: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Read a call of a tool itself."""
    return Call(name=tool.name, arguments=args[0] if args else kwargs["input"])


def failure(result: Any) -> str | None:
    """Say why a result means failure."""
    return str(result.get("content")) if isinstance(result, dict) and result.get("is_error") else None


def tell_text(_call: Call, error: Exception) -> str:
    """Make what a tool returns to tell the model of a refusal."""
    return f"Not done: {error}"


def tell(call: Call, error: Exception) -> Any:
    """Make the result that tells the model of a refusal."""
    return {"type": "tool_result", "tool_use_id": call.call_id, "content": tell_text(call, error), "is_error": True}


class BlockCodec:
    """Keeps the content of a result; the id is that of whoever asks."""

    def encode(self, result: Any) -> Any:
        """Turn a result block into a JSON tree."""
        return exactly(result["content"])

    def decode(self, tree: Any, call: Call) -> Any:
        """Turn a tree, or what a probe found out, into a result block."""
        value = decode(tree)
        content = value if isinstance(value, str | list) else str(value)
        return {"type": "tool_result", "tool_use_id": call.call_id, "content": content}


class PlainCodec:
    """Keeps what a tool's function returned."""

    def encode(self, result: Any) -> Any:
        """Turn a result into a JSON tree."""
        return exactly(result)

    def decode(self, tree: Any, call: Call) -> Any:  # noqa: ARG002 - no id is known here
        """Turn a tree into a result."""
        return decode(tree)


def _run(method: str, versions: str) -> Wrap:
    target = f"{_RUNNER}:{method}"
    return Wrap(target, describe, codec=BlockCodec(), failure=failure, tell=tell, versions=versions)


WRAPS = (
    *(_run(f"Base{kind}ToolRunner._run_tool", ">=1.9") for kind in ("Sync", "Async")),
    *(_run(f"Base{kind}ToolRunner._run_toolset_member", ">=2.2") for kind in ("Sync", "Async")),
    *(
        Wrap(f"{_FUNCTIONS}:{tool}.call", describe_function, codec=PlainCodec(), tell=tell_text, versions="<1.9")
        for tool in ("BetaFunctionTool", "BetaAsyncFunctionTool")
    ),
)
HIDES = (f"{_RUNNER}:tool_error_content",)
# The runner makes a span of each tool that it runs.
OWN_SPANS = ("anthropic.custom_tool_use", "anthropic.mcp_tool_use")
