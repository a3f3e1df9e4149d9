"""Calls of Pydantic AI's tools, and of the functions that make the output of a run.

Rules: a conversation is narrowed to the run in which the model asked for the call, which a run that resumes it finds in
the messages so far. A function that makes an output is called by its own name, not by that of the tool which the
framework makes of it; what it makes of an answer that is still being streamed is no call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanledger.core.call import Call
from spanledger.instrument._results import TypedCodec, returned_by


def describe(_manager: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Read a call of a function tool."""
    found = validated(args, kwargs)
    return _placed(found.call.tool_name, found.validated_args, found.call.tool_call_id, found.ctx)


def validated(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return a call as the tool manager has validated it."""
    return args[0] if args else kwargs["validated"]


def describe_output(_instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call | None:
    """Read a call of a function that makes the output of a run."""
    context = kwargs["run_context"]
    if context.partial_output:
        return None
    return _placed(_function(args, kwargs).__name__, kwargs["args"], context.tool_call_id, context)


def codec_of_output(_instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> TypedCodec:
    """Say how outputs are kept."""
    return TypedCodec(returned_by(_function(args, kwargs)))


def _function(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return (args[0] if args else kwargs["function_schema"]).function


def _placed(name: str, arguments: Any, call_id: str | None, context: Any) -> Call:
    conversation = context.conversation_id
    return Call(
        name,
        arguments=arguments,
        call_id=call_id,
        workflow_id=conversation,
        turn=_run_that_asked(context, call_id),
        agent=context.agent.name if context.agent else None,
    )


def _run_that_asked(context: Any, call_id: str | None) -> str | None:
    for message in reversed(context.messages if call_id else ()):
        if any(getattr(part, "tool_call_id", None) == call_id for part in message.parts):
            run_id: str | None = getattr(message, "run_id", None)
            return run_id or context.run_id
    return context.run_id  # type: ignore[no-any-return]
