"""OpenAI Agents SDK: function tools, tools of MCP servers and agents used as tools all end in one function.

Rules: that function is imported by name elsewhere, so it is wrapped in both places. A conversation is the run's
`group_id`, narrowed to the trace, which a resumed `RunState` takes up again. What the SDK makes of a tool's exception
for the model is a failure, not a result. A refusal stops the run as an `AgentsException`, the only kind that the SDK
does not wrap in another. Runs that are streamed are traced in the task in which they run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from spanledger.core.call import INVOKE_AGENT, Call
from spanledger.errors import SpanledgerError
from spanledger.instrument.libraries import _openai_agents_actions as actions
from spanledger.instrument.libraries._openai_agents_messages import CONVERSATION
from spanledger.instrument.libraries._openai_agents_results import codec_of
from spanledger.instrument.library import Library, Wrap, also
from spanledger.telemetry import semconv

# Of a tool's name with its server's before it, where that is longer than 64 characters or somebody else's as well.
_HASHED = re.compile("mcp_.*_[0-9a-f]{8}", re.ASCII)
_UNSPOKEN = re.compile("[^0-9A-Za-z_-]")
_INVOKE = "_invoke_function_tool_with_metadata"


def describe(_instance: Any, _args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Read a call of a function tool."""
    context = kwargs["context"]
    name, arguments = _name_of(kwargs["function_tool"]), _arguments(kwargs["arguments"])
    return _placed(name, arguments, context.tool_call_id, context.run_config, context.agent)


def describe_action(asked: actions.Asked) -> Call:
    """Read a call of a tool that is no function tool."""
    given = asked.given
    return _placed(asked.name, asked.arguments, asked.call_id, given["config"], given["agent"])


def _placed(name: str, arguments: Any, call_id: str | None, run: Any, agent: Any) -> Call:
    from agents.tracing import get_current_trace

    group, named_trace = (run.group_id, run.trace_id) if run else (None, None)
    trace, thread = get_current_trace(), group or named_trace
    return Call(
        name,
        arguments=arguments,
        call_id=call_id,
        workflow_id=thread,
        turn=None if thread is None or trace is None else trace.trace_id,
        agent=agent.name if agent else None,
    )


def describe_run(_runner: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Read a run of an agent."""
    agent = args[0] if args else kwargs["starting_agent"]
    run, session = kwargs.get("run_config"), kwargs.get("session")
    conversation = kwargs.get("conversation_id") or getattr(session, "session_id", None)
    return Call(
        name=agent.name,
        operation=INVOKE_AGENT,
        agent=agent.name,
        attributes={semconv.CONVERSATION_ID: conversation or getattr(run, "group_id", None)},
    )


def failure(result: Any) -> str | None:
    """Say why a result means failure: the SDK, not the tool, wrote it."""
    return str(result.output) if result.is_sdk_generated_error else None


def tell(_call: Call, error: Exception) -> Any:
    """Make the output that tells the model of a refusal."""
    from agents.tool import _FunctionToolInvocationResult

    return _FunctionToolInvocationResult(f"Not done: {error}", is_sdk_generated_error=True)


def stop(error: SpanledgerError) -> SpanledgerError:
    """Make a refusal one that the SDK lets through."""
    from agents.exceptions import AgentsException

    return also(error, AgentsException)


def _name_of(tool: Any) -> str:
    """Name a tool as the model does; where the SDK made a hash of that, with the server's own name for it after."""
    binding = getattr(tool, "_mcp_tool_binding", None)
    if not binding or not _HASHED.fullmatch(tool.name):
        return str(tool.name)
    # Some names end like that by themselves.
    whole = tool.name.endswith("__" + _UNSPOKEN.sub("_", binding[1]).strip("_-"))
    return str(tool.name) if whole else f"{tool.name}__{binding[1]}"


def _arguments(text: str) -> Mapping[str, Any] | str:
    try:
        arguments = json.loads(text or "{}")
    except ValueError:
        return text
    return arguments if isinstance(arguments, dict) else text


LIBRARY = Library(
    name="openai_agents",
    requires="openai-agents>=0.21,<1",
    wraps=(
        *(
            Wrap(
                target=f"{module}:{_INVOKE}",
                describe=describe,
                codec_of=codec_of,
                failure=failure,
                tell=tell,
                stop=stop,
            )
            for module in ("agents.tool", "agents.run_internal.tool_execution")
        ),
        *actions.wraps(describe_action, stop=stop),
        *(
            Wrap(target=f"agents.run:{run}", operation=INVOKE_AGENT, describe=describe_run, conversation=CONVERSATION)
            for run in ("AgentRunner.run", "start_streaming")
        ),
    ),
    hides=(
        "agents.tool:maybe_invoke_function_tool_failure_error_function",
        "agents.exceptions:ToolTimeoutError.__init__",
    ),
    tells=actions.TELLS,
)
