"""LangChain and LangGraph tools: everything that runs one ends in `BaseTool.run` or `BaseTool.arun`.

Rules: arguments that the framework injects (state, store, runtime) are not the model's and not part of the call. A
replayed `ToolMessage` carries the id of the call that asks now. What a tool returns as a message with status
"error" is a failure. Interrupts suspend the run; the tool is called again from its start. Where a graph keeps what it
has done, a call that waits for a person is such an interrupt; whatever the run is resumed with, the ledger decides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from spanledger.core.call import Call, ScopeSource
from spanledger.core.values import decode, encode
from spanledger.errors import ApprovalPending
from spanledger.instrument.library import Library, Pause, Wrap

# A key with one dollar sign cannot come from a tool: `encode` doubles those.
_MESSAGE = "$tool_message"


def describe(tool: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Read a call of `BaseTool.run`."""
    given = args[0] if args else kwargs["tool_input"]
    config = kwargs.get("config") or {}
    configurable = config.get("configurable") or {}
    thread = configurable.get("thread_id")
    return Call(
        name=tool.name,
        arguments=tool._filter_injected_args(given) if isinstance(given, dict) else {"input": given},  # noqa: SLF001
        call_id=kwargs.get("tool_call_id"),
        workflow_id=None if thread is None else str(thread),
        workflow_source=ScopeSource.TRACE if thread is None else ScopeSource.FRAMEWORK,
        turn=configurable.get("__pregel_task_id"),
    )


def failure(result: Any) -> str | None:
    """Say why a result means failure."""
    return str(result.content) if getattr(result, "status", None) == "error" else None


def pause(_tool: Any, _args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Pause | None:
    """Say how the run is suspended, if it is one of a graph that keeps what it has done."""
    configurable = (kwargs.get("config") or {}).get("configurable") or {}
    if not configurable.get("__pregel_checkpointer"):
        return None
    from langgraph.errors import GraphInterrupt
    from langgraph.types import Interrupt

    scratchpad = configurable.get("__pregel_scratchpad")

    def resumed() -> None:
        # What the run was resumed with was meant for us: a tool that asks a question must not take it for an answer.
        if scratchpad is not None:
            scratchpad.get_null_resume(True)

    def suspend(error: ApprovalPending) -> GraphInterrupt:
        resumed()
        value = {"approval_id": error.approval_id, "reason": str(error)}
        return GraphInterrupt([Interrupt(value, id=error.approval_id)])

    return Pause(suspend, resumed)


def tell(call: Call, error: Exception) -> Any:
    """Make the message that tells the model of a refusal."""
    from langchain_core.messages import ToolMessage

    text = f"Not done: {error}"
    return (
        text if call.call_id is None else ToolMessage(text, tool_call_id=call.call_id, name=call.name, status="error")
    )


class MessageCodec:
    """Keeps tool messages and plain values; a command or another object of the graph is not kept."""

    def encode(self, result: Any) -> Any:
        """Turn what a tool returned into a JSON tree."""
        from langchain_core.messages import ToolMessage

        if type(result) is not ToolMessage:
            return _checked(result)
        return {_MESSAGE: {"content": _checked(result.content), "artifact": _checked(result.artifact)}}

    def decode(self, tree: Any, call: Call) -> Any:
        """Turn a tree, or what a probe found out, into what `BaseTool.run` would return now."""
        from langchain_core.messages import ToolMessage

        kept = tree.get(_MESSAGE) if isinstance(tree, dict) else None
        content = decode(kept["content"] if kept else tree)
        artifact = decode(kept["artifact"]) if kept else None
        if call.call_id is None:
            return content
        text = content if isinstance(content, str | list) else json.dumps(content, ensure_ascii=False)
        return ToolMessage(text, artifact=artifact, tool_call_id=call.call_id, name=call.name, status="success")


def _checked(value: Any) -> Any:
    tree = encode(value, exact=True)
    if decode(tree) != value:
        raise TypeError(f"a {type(value).__qualname__} would not come back equal")
    return tree


LIBRARY = Library(
    name="langchain",
    requires="langchain-core>=1,<2",
    wraps=tuple(
        Wrap(
            target=f"langchain_core.tools.base:BaseTool.{method}",
            describe=describe,
            codec=MessageCodec(),
            failure=failure,
            tell=tell,
            pause=pause,
            pauses=("langgraph.errors.GraphBubbleUp",),
        )
        for method in ("run", "arun")
    ),
    hides=tuple(f"langchain_core.tools.base:_handle_{kind}_error" for kind in ("tool", "validation")),
)
