"""Pydantic AI: every function tool, of whatever toolset, ends in one method of the tool manager.

Rules: arguments are taken after validation and after the hooks, as they reach the tool. A conversation is narrowed to
the run in which the model asked for the call, which a run that resumes it finds in the messages so far. Retries,
deferrals and requests for approval are the framework's own ways to go on. What stops a run is any exception, so ours
are raised as they are. Where the agent gives requests for approval back as its output, a call that waits for a person
is one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from spanledger.core.call import INVOKE_AGENT, Call, ScopeSource
from spanledger.instrument._results import TypedCodec, also_returned
from spanledger.instrument.library import Library, Pause, Wrap
from spanledger.telemetry import semconv

_ERRORS = "pydantic_ai.exceptions"
_DEFAULT_NAME = "agent"
# A key with one dollar sign cannot come from a tool: `encode` doubles those.
_RETURN = "$tool_return"
_FIELDS = ("return_value", "content", "metadata", "tools")


def describe(_manager: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Read a call of a function tool."""
    validated = _validated(args, kwargs)
    context, asked = validated.ctx, validated.call
    conversation = context.conversation_id
    return Call(
        name=asked.tool_name,
        arguments=validated.validated_args,
        call_id=asked.tool_call_id,
        workflow_id=conversation,
        workflow_source=ScopeSource.TRACE if conversation is None else ScopeSource.FRAMEWORK,
        turn=_run_that_asked(context, asked.tool_call_id),
        agent=context.agent.name if context.agent else None,
    )


def describe_run(agent: Any, _args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Read a run of an agent."""
    return Call(
        name=agent.name or _DEFAULT_NAME,
        operation=INVOKE_AGENT,
        agent=agent.name,
        attributes={semconv.CONVERSATION_ID: kwargs.get("conversation_id")},
    )


class ReturnCodec(TypedCodec):
    """Keeps values as the tool's function is annotated, the framework's contents, and both in a `ToolReturn`."""

    def encode(self, result: Any) -> Any:
        """Turn what a tool returned into a JSON tree."""
        from pydantic_ai.messages import ToolReturn

        if type(result) is not ToolReturn:
            return super().encode(result)
        return {_RETURN: {name: super(ReturnCodec, self).encode(getattr(result, name)) for name in _FIELDS}}

    def decode(self, tree: Any, call: Call) -> Any:
        """Turn a tree, or what a probe found out, into what the tool would return now."""
        from pydantic_ai.messages import ToolReturn

        if not (isinstance(tree, dict) and _RETURN in tree):
            return super().decode(tree, call)
        kept = tree[_RETURN]
        fields = {name: super(ReturnCodec, self).decode(kept[name], call) for name in _FIELDS if kept.get(name)}
        return ToolReturn(fields.pop("return_value", None), **fields)


def codec_of(_manager: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ReturnCodec:
    """Say how the results of a tool are kept."""
    from pydantic_ai.messages import AudioUrl, BinaryContent, BinaryImage, DocumentUrl, ImageUrl, VideoUrl

    tool = _validated(args, kwargs).tool
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

    agent = _validated(args, kwargs).ctx.agent
    outputs = agent.output_type if agent else ()
    if DeferredToolRequests not in (outputs if isinstance(outputs, Sequence) else get_args(outputs) or (outputs,)):
        return None
    return Pause(lambda error: ApprovalRequired({"approval_id": error.approval_id, "reason": str(error)}))


def _validated(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else kwargs["validated"]


def _run_that_asked(context: Any, call_id: str) -> str | None:
    for message in reversed(context.messages):
        if any(getattr(part, "tool_call_id", None) == call_id for part in message.parts):
            run_id: str | None = getattr(message, "run_id", None)
            return run_id or context.run_id
    return context.run_id  # type: ignore[no-any-return]


LIBRARY = Library(
    name="pydantic_ai",
    requires="pydantic-ai-slim>=2.3,<3",
    wraps=(
        Wrap(
            target="pydantic_ai.tool_manager:ToolManager._raw_execute",
            describe=describe,
            codec_of=codec_of,
            tell=tell,
            pause=pause,
            pauses=tuple(
                f"{_ERRORS}.{name}"
                for name in ("ModelRetry", "ToolRetryError", "CallDeferred", "ApprovalRequired", "SkipToolExecution")
            ),
        ),
        Wrap(target="pydantic_ai.agent:Agent.iter", operation=INVOKE_AGENT, describe=describe_run),
    ),
)
