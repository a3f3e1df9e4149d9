"""Tools of MCP servers that are made of the low-level `Server`: whatever function answers `tools/call` there.

Rules: a server made with `FastMCP` or `MCPServer` registers a method of its own, whose tools are guarded one by one; it
is left alone. A refusal becomes an error result, so that the session lives on. Since 2 the function is guarded where
the server looks it up, and servers made before are covered. Before, it is guarded where it is registered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from spanledger.core.call import Call
from spanledger.errors import SpanledgerError
from spanledger.instrument.libraries._mcp_results import error_result

_Guarded = Callable[[Any], Any]


def describe(_server: Any, args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> Call:
    """Read a call of the function: a context, and the parameters of the request."""
    return Call(name=args[1].name, arguments=args[1].arguments or {})


def describe_registered(_server: Any, args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> Call:
    """Read a call of the function as it was before 2: the tool's name, and its arguments."""
    return Call(name=args[0], arguments=args[1])


def receives(_server: Any, args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read the ``_meta`` of the request."""
    return read(args[0].meta)


def receives_registered(_server: Any, _args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read the ``_meta`` of the request, before 2."""
    from mcp.server.lowlevel.server import request_ctx

    context = request_ctx.get(None)
    return read(context.meta) if context else {}


def read(meta: Any) -> Mapping[str, Any]:
    """Return a request's ``_meta`` as a mapping, whichever version made it."""
    return meta if isinstance(meta, Mapping) else (getattr(meta, "model_extra", None) or {})


def hands(entry: Any, guarded: _Guarded) -> Any:
    """Guard the function that a server looks up to answer ``tools/call``; others pass."""
    from mcp.types import CallToolRequestParams

    if entry is None or not issubclass(entry.params_type, CallToolRequestParams) or _has_tools(entry.handler):
        return entry
    run = guarded(entry.handler)

    async def answer(context: Any, params: Any) -> Any:
        try:
            return await run(context, params)
        except SpanledgerError as refusal:
            return error_result(str(refusal))

    return dataclasses.replace(entry, handler=answer)


def hands_registering(register: Callable[[Any], Any], guarded: _Guarded) -> Callable[[Any], Any]:
    """Guard the function that the decorator of a server registers; what it raises, the server tells its client."""

    def registering(function: Any) -> Any:
        register(function if _has_tools(function) else guarded(function))
        return function

    return registering


def _has_tools(function: Any) -> bool:
    return hasattr(getattr(function, "__self__", None), "_tool_manager")
