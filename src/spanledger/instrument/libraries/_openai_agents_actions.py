"""OpenAI Agents SDK: tools that are no function tools: custom ones, shells, and editors of files.

Rules: one method of the SDK has a person approve the call, runs the program's function and makes a text of what it
raises. So what is guarded is the function, on a copy of the tool that the method is given. A command that was out of
time may have taken effect. What is done on the screen of a computer is not a call: each click would be one.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from spanledger.core.call import Call
from spanledger.instrument._results import TypedCodec, also_returned
from spanledger.instrument.library import Arguments, Given, Wrap

_ACTIONS = "agents.run_internal.tool_actions"
_Guarded = Callable[[Any], Any]
_ReadArguments = Callable[..., Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """A call of such a tool.

    Attributes:
        name: The tool's name.
        arguments: What its function is called with, as far as the model asked for it.
        given: What the method of the SDK is called with.
        function: The program's function.
    """

    name: str
    arguments: Mapping[str, Any]
    given: Mapping[str, Any]
    function: Callable[..., Any]

    @property
    def call_id(self) -> str | None:
        """The id that the model's provider gave to the call."""
        item = self.given["call"].tool_call
        return item.get("call_id") if isinstance(item, Mapping) else getattr(item, "call_id", None)


async def _run(asked: Asked, *args: Any) -> Any:
    result = asked.function(*args)
    return await result if inspect.isawaitable(result) else result


def _one(tool: str, function: str, arguments: _ReadArguments) -> Callable[..., Given]:
    """Guard the function of a tool, which is an attribute of it."""

    def gives(_action: Any, args: Arguments, given: dict[str, Any], guarded: _Guarded) -> Given:
        own = getattr(getattr(given["call"], tool), function)
        if own is None:
            return args, given
        return args, _given(given, tool, **{function: _with(given, tool, own, arguments, guarded)})

    return gives


def _editor(_action: Any, args: Arguments, given: dict[str, Any], guarded: _Guarded) -> Given:
    """Guard what an editor does."""
    tool = "apply_patch_tool"
    editor = getattr(given["call"], tool).editor
    functions = {
        name: _with(given, tool, getattr(editor, name), _operation, guarded)
        for name in ("create_file", "update_file", "delete_file")
    }
    return args, _given(given, tool, editor=_Editor(**functions))


@dataclasses.dataclass(frozen=True, slots=True)
class _Editor:
    create_file: Callable[..., Any]
    update_file: Callable[..., Any]
    delete_file: Callable[..., Any]


def _with(
    given: Mapping[str, Any], tool: str, function: Callable[..., Any], arguments: _ReadArguments, guarded: _Guarded
) -> Callable[..., Any]:
    run, name = guarded(_run), getattr(given["call"], tool).name
    return lambda *args: run(Asked(name, arguments(*args), given, function), *args)


def _given(given: Mapping[str, Any], tool: str, **changed: Any) -> dict[str, Any]:
    other = copy.copy(getattr(given["call"], tool))
    for name, value in changed.items():
        setattr(other, name, value)
    return {**given, "call": dataclasses.replace(given["call"], **{tool: other})}


def _operation(operation: Any) -> Mapping[str, Any]:
    fields = (field.name for field in dataclasses.fields(operation) if field.name != "ctx_wrapper")
    return {name: getattr(operation, name) for name in fields}


def codec_of(_function: Any, args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> TypedCodec:
    """Say how the results of a tool are kept."""
    from agents import ApplyPatchResult, ShellResult

    return TypedCodec(also_returned(args[0].function, ShellResult, ApplyPatchResult))


def failure(result: Any) -> str | BaseException | None:
    """Say why a result means failure."""
    if getattr(result, "status", None) == "failed":
        return str(result.output)
    outputs = result.output if isinstance(getattr(result, "output", None), list) else ()
    late = any(getattr(getattr(output, "outcome", None), "type", None) == "timeout" for output in outputs)
    return TimeoutError("a command was out of time") if late else None


def tell(_call: Call, error: Exception) -> str:
    """Make the text that tells the model of a refusal."""
    return f"Not done: {error}"


def tell_failed(call: Call, error: Exception) -> Any:
    """Make what an editor returns to tell the model of a refusal."""
    from agents import ApplyPatchResult

    return ApplyPatchResult(status="failed", output=tell(call, error))


def wraps(describe: Callable[[Asked], Call], **shared: Any) -> tuple[Wrap, ...]:
    """Make the wraps, given how to place a call."""

    def described(_function: Any, args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> Call:
        return describe(args[0])

    shared |= {"describe": described, "codec_of": codec_of, "failure": failure}
    text = _one("custom_tool", "on_invoke_tool", lambda _context, text: {"input": text})
    shell = _one("shell_tool", "executor", lambda asked: dataclasses.asdict(asked.data.action))
    local = _one("local_shell_tool", "executor", lambda asked: asked.data.action.model_dump(exclude_none=True))
    return (
        Wrap(f"{_ACTIONS}:CustomToolAction.execute", gives=text, tell=tell, **shared),
        Wrap(f"{_ACTIONS}:ShellAction.execute", gives=shell, tell=tell, **shared),
        Wrap(f"{_ACTIONS}:LocalShellAction.execute", gives=local, tell=tell, **shared),
        Wrap(f"{_ACTIONS}:ApplyPatchAction.execute", gives=_editor, tell=tell_failed, **shared),
    )


TELLS = (f"{_ACTIONS}:format_shell_error",)
