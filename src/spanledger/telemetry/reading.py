"""What the start of a span says about a call, and its end about a result.

Rules: pure. A span is a tool's by its operation, or by its name where it says no operation. What an attribute holds
that cannot be read says as much as none; nothing here raises.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from spanledger.core.call import EXECUTE_TOOL, Call, ScopeSource
from spanledger.telemetry import semconv

TOOL_PREFIX: Final = f"{EXECUTE_TOOL} "
MCP_METHOD_NAME: Final = "mcp.method.name"
MCP_CALL_TOOL: Final = "tools/call"
# What the MCP SDK calls the span of a client; that of a server says that it executes a tool.
SENT_PREFIX: Final = f"MCP send {MCP_CALL_TOOL} "
_PREFIXES: Final = (TOOL_PREFIX, SENT_PREFIX)
_JSON_SPACE: Final = " \t\n\r"

_read = json.JSONDecoder().raw_decode


def describe(name: str, attributes: Mapping[str, Any], *, waits: bool = True) -> Call | None:
    """Read a call from the start of a span; None if it is no tool span.

    Args:
        name: The span's name.
        attributes: Its attributes.
        waits: Whoever starts it can wait for another worker or a person.
    """
    operation = attributes.get(semconv.OPERATION_NAME)
    if operation != EXECUTE_TOOL and not (operation is None and name.startswith(_PREFIXES)):
        return None
    conversation = _text(attributes.get(semconv.CONVERSATION_ID))
    return Call(
        name=_text(attributes.get(semconv.TOOL_NAME)) or name.removeprefix(TOOL_PREFIX).removeprefix(SENT_PREFIX),
        arguments=_arguments(attributes.get(semconv.TOOL_CALL_ARGUMENTS)),
        call_id=_text(attributes.get(semconv.TOOL_CALL_ID)),
        workflow_id=conversation,
        workflow_source=ScopeSource.CONVERSATION if conversation else ScopeSource.TRACE,
        agent=_text(attributes.get(semconv.AGENT_NAME)),
        sent=attributes.get(MCP_METHOD_NAME) == MCP_CALL_TOOL,
        waits=waits,
        documents=True,
    )


def result_of(value: Any) -> Any:
    """Read an attribute that holds a value as JSON text, or as it is."""
    if not isinstance(value, str):
        return value
    # As `json.loads` does, which takes twice as long.
    text = value.strip(_JSON_SPACE)
    try:
        tree, end = _read(text)
    except (ValueError, RecursionError):
        return value
    return tree if end == len(text) else value


def may_be_tool(name: Any, attributes: Mapping[str, Any] | None) -> bool:
    """Tell in two look-ups whether a span may be a tool's."""
    if attributes and attributes.get(semconv.OPERATION_NAME) == EXECUTE_TOOL:
        return True
    return isinstance(name, str) and name.startswith(_PREFIXES)


def _arguments(value: Any) -> Mapping[str, Any] | str | None:
    parsed = result_of(value)
    if parsed is None or isinstance(parsed, (dict, str, Mapping)):
        return parsed
    try:
        return json.dumps(parsed)
    except TypeError:
        # No attribute of a span can be that; it says as much as none.
        return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
