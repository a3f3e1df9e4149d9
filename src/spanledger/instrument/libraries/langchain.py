"""LangChain and LangGraph tools: everything that runs one ends in `BaseTool.run` or `BaseTool.arun`.

Rules: arguments that the framework injects (state, store, runtime) are not the model's and not part of the call. A
replayed `ToolMessage` carries the id of the call that asks now. What a tool returns as a message with status
"error" is a failure. Interrupts suspend the run; the tool is called again from its start. Where a graph keeps what it
has done, a call that waits for a person is such an interrupt; whatever the run is resumed with, the ledger decides.
OpenInference makes a span of a model's run in a callback, in whatever thread, and says nothing on it before it ends: it
is found by the run's id once the callbacks have been called, and the client's call that follows is that span.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from spanledger.core.call import Call
from spanledger.errors import ApprovalPending
from spanledger.instrument.libraries._langchain_results import ResultCodec, messages_in
from spanledger.instrument.library import Library, Pause, Wrap, no_call


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
        turn=configurable.get("__pregel_task_id"),
    )


def codec_of(tool: Any, _args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> ResultCodec:
    """Say how the results of a tool are kept."""
    return ResultCodec(getattr(tool, "func", None) or getattr(tool, "coroutine", None) or tool._run)  # noqa: SLF001


def failure(result: Any) -> str | None:
    """Say why a result means failure."""
    return next((str(m.content) for m in messages_in(result) if getattr(m, "status", None) == "error"), None)


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


def announced(_args: tuple[Any, ...], kwargs: Mapping[str, Any], managers: list[Any]) -> list[tuple[Any, str | None]]:
    """Find the spans that OpenInference has made of the runs of models that begin."""
    theirs = sys.modules.get("openinference.instrumentation.langchain")
    if theirs is None:
        return []
    instrumentor = theirs.LangChainInstrumentor()
    if not instrumentor.is_instrumented_by_opentelemetry:  # it would say on stdout that it is not
        return []
    asked = kwargs.get("invocation_params") or {}
    model = asked.get("model") or asked.get("model_name")
    spans = [instrumentor.get_span(manager.run_id) for manager in managers]
    return [(span, model if isinstance(model, str) else None) for span in spans if span is not None]


LIBRARY = Library(
    name="langchain",
    requires="langchain-core>=1.4.7,<2",
    wraps=tuple(
        Wrap(
            target=f"langchain_core.tools.base:BaseTool.{method}",
            describe=describe,
            codec_of=codec_of,
            failure=failure,
            tell=tell,
            pause=pause,
            pauses=("langgraph.errors.GraphBubbleUp",),
        )
        for method in ("run", "arun")
    )
    + tuple(
        Wrap(
            target=f"langchain_core.callbacks.manager:{manager}.on_{kind}_start",
            describe=no_call,
            operation="chat",
            announced=announced,
        )
        for manager in ("CallbackManager", "AsyncCallbackManager")
        for kind in ("chat_model", "llm")
    ),
    hides=tuple(f"langchain_core.tools.base:_handle_{kind}_error" for kind in ("tool", "validation")),
)
