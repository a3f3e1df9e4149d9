"""LangGraph: a run of a graph is a run of an agent, the root that its model and tool calls hang under.

Rules: only a span; what a run may do is decided call by call. Every run is streamed inside: `invoke` reads from
`stream`, and `ainvoke` from `astream`. A graph inside a graph is a span inside a span, and one that an interrupt
suspends has not failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanledger.core.call import INVOKE_AGENT, Call
from spanledger.instrument.libraries._langgraph_messages import CONVERSATION
from spanledger.instrument.library import Library, Wrap
from spanledger.telemetry import semconv

_DEFAULT_NAME = "LangGraph"


def describe(graph: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Read a call of `Pregel.stream`."""
    config = (args[1] if len(args) > 1 else kwargs.get("config")) or {}
    thread = (config.get("configurable") or {}).get("thread_id")
    name = graph.name if graph.name != _DEFAULT_NAME else None
    return Call(
        name=name or _DEFAULT_NAME,
        operation=INVOKE_AGENT,
        agent=name,
        attributes={semconv.CONVERSATION_ID: None if thread is None else str(thread)},
    )


LIBRARY = Library(
    name="langgraph",
    requires="langgraph>=1.2,<2",
    wraps=tuple(
        Wrap(
            target=f"langgraph.pregel.main:Pregel.{method}",
            operation=INVOKE_AGENT,
            describe=describe,
            pauses=("langgraph.errors.GraphBubbleUp",),
            conversation=CONVERSATION,
        )
        for method in ("stream", "astream")
    ),
)
