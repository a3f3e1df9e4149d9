"""Pydantic AI: every function tool, of whatever toolset, ends in one method of the tool manager.

Rules: arguments are taken after validation and after the hooks, as they reach the tool. Retries,
deferrals and requests for approval are the framework's own ways to go on. What stops a run is any exception, so ours
are raised as they are. Where the agent gives requests for approval back as its output, a call that waits for a person
is one of them. Where the framework makes spans of its own, of a run or a call, these are the spans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from spanledger.core.call import INVOKE_AGENT, Call
from spanledger.instrument._results import also_returned
from spanledger.instrument.libraries import _pydantic_ai_calls as calls
from spanledger.instrument.libraries._pydantic_ai_messages import CONVERSATION
from spanledger.instrument.libraries._pydantic_ai_results import ReturnCodec
from spanledger.instrument.library import Library, Pause, Wrap
from spanledger.telemetry import semconv

_DEFAULT_NAME = "agent"
_PAUSES = tuple(
    f"pydantic_ai.exceptions.{name}"
    for name in ("ModelRetry", "ToolRetryError", "CallDeferred", "ApprovalRequired", "SkipToolExecution")
)


def describe_run(agent: Any, _args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call | None:
    """Read a run of an agent; None where the framework makes a span of it."""
    if _traces_itself(agent, kwargs.get("capabilities")):
        return None
    return Call(
        name=agent.name or _DEFAULT_NAME,
        operation=INVOKE_AGENT,
        agent=agent.name,
        attributes={semconv.CONVERSATION_ID: kwargs.get("conversation_id")},
    )


def codec_of(_manager: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ReturnCodec:
    """Say how the results of a tool are kept."""
    from pydantic_ai.messages import AudioUrl, BinaryContent, BinaryImage, DocumentUrl, ImageUrl, VideoUrl

    tool = calls.validated(args, kwargs).tool
    while hasattr(tool, "source_tool"):
        tool = tool.source_tool
    function = getattr(getattr(getattr(tool, "call_func", None), "__self__", None), "function", None)
    content = ImageUrl | AudioUrl | DocumentUrl | VideoUrl | BinaryImage | BinaryContent
    return ReturnCodec(also_returned(function, content, list[content]))


def tell(_call: Call, error: Exception) -> str:
    """Make the value that tells the model of a refusal."""
    return f"Not done: {error}"


def pause(_manager: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Pause | None:
    """Say how the run is suspended, if its agent gives back what is to be approved."""
    from pydantic_ai.exceptions import ApprovalRequired
    from pydantic_ai.tools import DeferredToolRequests

    agent = calls.validated(args, kwargs).ctx.agent
    outputs = agent.output_type if agent else ()
    if DeferredToolRequests not in (outputs if isinstance(outputs, Sequence) else get_args(outputs) or (outputs,)):
        return None
    return Pause(lambda error: ApprovalRequired({"approval_id": error.approval_id, "reason": str(error)}))


def _traces_itself(agent: Any, given: Sequence[Any] | None) -> bool:
    found: list[Any] = []
    for capability in (getattr(agent, "_root_capability", None), *(given or ())):
        if hasattr(capability, "apply"):
            capability.apply(found.append)
    set_there = getattr(agent, "instrument", None)
    everywhere = getattr(type(agent), "_instrument_default", False)
    named = any(type(capability).__name__ == "Instrumentation" for capability in found)
    return named or bool(everywhere if set_there is None else set_there)


LIBRARY = Library(
    name="pydantic_ai",
    requires="pydantic-ai-slim>=2.3,<3",
    wraps=(
        Wrap(
            target="pydantic_ai.tool_manager:ToolManager._raw_execute",
            describe=calls.describe,
            codec_of=codec_of,
            tell=tell,
            pause=pause,
            pauses=_PAUSES,
        ),
        Wrap(
            target="pydantic_ai._output:execute_output_function",
            describe=calls.describe_output,
            codec_of=calls.codec_of_output,
            pauses=_PAUSES,
        ),
        Wrap(
            target="pydantic_ai.agent:Agent.iter",
            operation=INVOKE_AGENT,
            describe=describe_run,
            conversation=CONVERSATION,
        ),
    ),  # No convention has it; the framework puts it on every span inside a run.
    own_spans=("gen_ai.agent.call.id",),
)
