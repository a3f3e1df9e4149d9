"""MCP: a client's `ClientSession.call_tool`, and the tools of servers made with `FastMCP`, `MCPServer` or neither.

Rules: the protocol has no id of a call, so without a rule a call is recorded and never replayed. What a server says
went wrong is a failure, and so no result. A refusal reaches a client as an exception, and on a server becomes an error
result: other exceptions would end the session. What a client sends says which call it has asked for already, so that a
server on the same ledger does not ask again.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from spanledger.core.call import Call
from spanledger.errors import SpanledgerError
from spanledger.instrument.libraries import _mcp_lowlevel as lowlevel
from spanledger.instrument.libraries._mcp_results import ResultCodec, error_result
from spanledger.instrument.library import Library, Wrap, also


def describe_client(_session: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Read a call of `ClientSession.call_tool`."""
    given = {**dict(zip(("name", "arguments"), args, strict=False)), **kwargs}
    return Call(name=given["name"], arguments=given.get("arguments") or {}, sent=True)


def describe_server(tool: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Read a call of a server's `Tool.run`."""
    return Call(name=tool.name, arguments=args[0] if args else kwargs["arguments"])


def sends(kwargs: dict[str, Any], travels: Mapping[str, Any]) -> dict[str, Any]:
    """Put what travels with a call into its ``_meta``."""
    return kwargs | {"meta": {**travels, **(kwargs.get("meta") or {})}} if _takes_meta() else kwargs


def receives(_tool: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read the ``_meta`` of the request that a tool of a server runs for."""
    context: Any = args[1] if len(args) > 1 else kwargs.get("context")
    try:
        return lowlevel.read(context.request_context.meta)
    except (AttributeError, ValueError):  # called by hand, outside of any request
        return {}


def failure(result: Any) -> str | None:
    """Say why a result means failure."""
    # The old name is not touched where the new one is there: who keeps it for compatibility warns.
    failed = result.is_error if hasattr(result, "is_error") else getattr(result, "isError", False)
    if not failed:
        return None
    return " ".join(block.text for block in result.content if hasattr(block, "text")) or "the tool reported an error"


def asks_back(result: Any) -> bool:
    """Tell whether a result only asks the client for input; the call is made again with it."""
    return type(result).__name__ == "InputRequiredResult"


def tell(_call: Call, error: Exception) -> Any:
    """Make the result that tells the model of a refusal."""
    return error_result(f"Not done: {error}")


def stop(error: SpanledgerError) -> SpanledgerError:
    """Make a refusal what a server answers with an error result, without taking it for a crash."""
    try:
        from mcp.server.mcpserver.exceptions import ToolError
    except ImportError:
        from mcp.server.fastmcp.exceptions import ToolError
    return also(error, ToolError)


@functools.cache
def _takes_meta() -> bool:
    from mcp.client.session import ClientSession

    return "meta" in inspect.signature(ClientSession.call_tool).parameters


_RESULTS: dict[str, Any] = {"codec": ResultCodec(), "failure": failure, "asks_back": asks_back}
_SERVER: dict[str, Any] = {**_RESULTS, "describe": describe_server, "stop": stop, "receives": receives}

LIBRARY = Library(
    name="mcp",
    requires="mcp>=1.23.3,<3",
    wraps=(
        Wrap(
            target="mcp.client.session:ClientSession.call_tool",
            describe=describe_client,
            tell=tell,
            sends=sends,
            **_RESULTS,
        ),
        Wrap(target="mcp.server.fastmcp.tools.base:Tool.run", versions="<2", **_SERVER),
        Wrap(target="mcp.server.mcpserver.tools.base:Tool.run", versions=">=2", **_SERVER),
        Wrap(
            target="mcp.server.lowlevel.server:Server.call_tool",
            versions="<2",
            describe=lowlevel.describe_registered,
            receives=lowlevel.receives_registered,
            hands=lowlevel.hands_registering,
            **_RESULTS,
        ),
        Wrap(
            target="mcp.server.lowlevel.server:Server.get_request_handler",
            versions=">=2",
            describe=lowlevel.describe,
            receives=lowlevel.receives,
            hands=lowlevel.hands,
            **_RESULTS,
        ),
    ),
    own_spans=("tools/call",),
)
