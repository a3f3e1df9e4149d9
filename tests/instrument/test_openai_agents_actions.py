"""Tools of the OpenAI Agents SDK that are no function tools: a custom one, shells, and an editor of files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from agents import (
    Agent,
    ApplyPatchResult,
    ApplyPatchTool,
    CustomTool,
    LocalShellTool,
    Runner,
    ShellCallOutcome,
    ShellCommandOutput,
    ShellResult,
    ShellTool,
    set_trace_processors,
)
from agents.exceptions import AgentsException
from agents.testing import ScriptedModel, assistant_message
from agents_world import agent_of, asked, outputs, run
from openai.types.responses import ResponseCustomToolCall, ResponseFunctionShellToolCall
from openai.types.responses.response_output_item import LocalShellCall, LocalShellCallAction

import spanledger
from spanledger import Budget, Calls, Rule, errors, workflow

LIBRARIES = ["openai_agents"]
BY_ARGUMENTS = Rule("*", identity="arguments")
NONE = Budget("none", Calls(0), match="*", operations=["execute_tool"])
PATCH = {"type": "create_file", "path": "a.txt", "diff": "+hello"}


@pytest.fixture(autouse=True)
def traces_stay_here() -> None:
    """The SDK's own traces are made as ever, and not sent to anybody."""
    set_trace_processors([])


def patch(call_id: str = "call_a") -> dict[str, Any]:
    return {"type": "apply_patch_call", "call_id": call_id, "status": "completed", "operation": PATCH}


def shell(call_id: str = "call_a") -> Any:
    action = {"commands": ["deploy"], "timeout_ms": None, "max_output_length": None}
    call = {"id": "s", "type": "shell_call", "call_id": call_id, "status": "completed", "action": action}
    return ResponseFunctionShellToolCall.model_validate(call | {"environment": {"type": "local"}})


def local_shell(call_id: str = "call_a") -> Any:
    action = LocalShellCallAction(type="exec", command=["deploy"], env={})
    return LocalShellCall(id="l", type="local_shell_call", call_id=call_id, status="completed", action=action)


def custom(call_id: str = "call_a") -> Any:
    return ResponseCustomToolCall(type="custom_tool_call", call_id=call_id, name="wire", input="100 EUR")


class Editor:
    """An editor of files that makes them only in words."""

    def __init__(self, do: Callable[..., Any]) -> None:
        self.create_file = self.update_file = self.delete_file = do


Of = Callable[[Callable[..., Any]], Any]
# What the model asks for; the tool that does what a function does; the tool's name; what is given back.
KINDS: dict[str, tuple[Callable[..., Any], Of, str, Any]] = {
    "custom": (custom, lambda do: CustomTool("wire", "Send money.", do), "wire", "sent"),
    "shell": (shell, lambda do: ShellTool(executor=do), "shell",
              ShellResult([ShellCommandOutput("up", outcome=ShellCallOutcome("exit", 0))])),
    "local_shell": (local_shell, lambda do: LocalShellTool(executor=do), "local_shell", "up"),
    "apply_patch": (patch, lambda do: ApplyPatchTool(editor=Editor(do)), "apply_patch",
                    ApplyPatchResult("completed", "made")),
}  # fmt: skip


@pytest.fixture(params=KINDS)
def kind(request: Any) -> tuple[Callable[..., Any], Of, str, Any]:
    return KINDS[request.param]


class Doing:
    """What the program's function does, how often it was done, and what it gives back or raises."""

    def __init__(self, result: Any, *, awaits: bool = False) -> None:
        self.done = 0
        self.result = result
        self.awaits = awaits

    def __call__(self, *_args: Any) -> Any:
        self.done += 1
        if isinstance(self.result, Exception):
            raise self.result
        return self._later() if self.awaits else self.result

    async def _later(self) -> Any:
        await asyncio.sleep(0)
        return self.result


@pytest.mark.parametrize("awaits", [False, True])
def test_a_tool_that_is_no_function_runs_once_and_gives_the_same_to_the_call_that_asks_again(
    awaits, kind, instrument, spans, ledger
):
    instrument(rules=[BY_ARGUMENTS])
    call, tool_of, name, result = kind
    doing = Doing(result, awaits=awaits)
    told = []
    for call_id in ("call_a", "call_b"):
        with workflow("w"):
            (item,) = run(agent_of(tool_of(doing), told=[call(call_id)])).new_items[1:-1]
        told.append(({**item.raw_item, "call_id": ""}, item.output))
        assert item.raw_item["call_id"] == call_id
    assert told[0] == told[1]
    assert doing.done == 1
    assert [s.attributes["spanledger.verdict"] for s in spans.all(f"execute_tool {name}")] == ["run", "replay"]
    assert [(row["tool"], row["state"]) for row in ledger.calls()] == [(name, "succeeded")]


def test_what_such_a_tool_raises_is_a_failure_that_no_later_call_is_given(kind, instrument, ledger):
    instrument(rules=[BY_ARGUMENTS])
    call, tool_of, _, result = kind
    doing = Doing(ValueError("no"))
    with workflow("w"):
        try:
            run(agent_of(tool_of(doing), told=[call()]))
        except ValueError:
            assert call is local_shell  # what its function raises stops the run
        assert [(row["state"], row["error"]["type"]) for row in ledger.calls()] == [("failed", "builtins.ValueError")]
        doing.result = result
        run(agent_of(tool_of(doing), told=[call()]))
    assert doing.done == 2


def test_a_refusal_of_such_a_tool_stops_the_run_as_an_error_of_the_sdk_and_of_ours(kind, instrument):
    instrument(rules=[BY_ARGUMENTS], budgets=[NONE])
    call, tool_of, _, result = kind
    doing = Doing(result)
    with workflow("w"), pytest.raises(errors.BudgetExceeded) as raised:
        run(agent_of(tool_of(doing), told=[call()]))
    assert isinstance(raised.value, AgentsException)
    assert doing.done == 0


def test_a_refusal_of_such_a_tool_is_told_to_the_model_where_the_rule_says_so(kind, instrument):
    instrument(rules=[Rule("*", on_refusal="tell")], budgets=[NONE])
    call, tool_of, _, result = kind
    doing = Doing(result)
    with workflow("w"):
        came = run(agent_of(tool_of(doing), told=[call()]))
    assert came.final_output == "done"
    assert "Not done: " in str(outputs(came))
    assert doing.done == 0


def test_a_call_that_a_person_has_rejected_through_the_sdk_has_not_been_made(instrument, ledger):
    instrument(rules=[BY_ARGUMENTS])
    doing = Doing("sent")
    tool = CustomTool("wire", "Send money.", doing, needs_approval=True)

    async def main(*, approve: bool) -> Any:
        agent = agent_of(tool, told=[custom()])
        first = await Runner.run(agent, "go")
        state = first.to_state()
        (state.approve if approve else state.reject)(first.interruptions[0])
        return await Runner.run(agent, state)

    with workflow("w"):
        asyncio.run(main(approve=False))
        assert (doing.done, ledger.calls()) == (0, [])
        assert outputs(asyncio.run(main(approve=True))) == ["sent"]
    assert doing.done == 1


def test_a_command_that_was_out_of_time_may_have_taken_effect(instrument, ledger):
    instrument(rules=[BY_ARGUMENTS])
    doing = Doing(ShellResult([ShellCommandOutput("", outcome=ShellCallOutcome("timeout"))]))
    with workflow("w"):
        run(agent_of(ShellTool(executor=doing), told=[shell()]))
        assert [row["state"] for row in ledger.calls()] == ["unknown"]
        with pytest.raises(errors.OutcomeUnknown):
            run(agent_of(ShellTool(executor=doing), told=[shell()]))
    assert doing.done == 1


def test_what_a_tool_inside_an_agent_used_as_a_tool_raises_is_no_failure_of_the_agent(instrument, ledger):
    instrument(rules=[BY_ARGUMENTS])
    inner = agent_of(CustomTool("wire", "Send money.", Doing(ValueError("no"))), told=[custom()], name="inner")
    delegate = inner.as_tool("delegate", "Have it done.")
    with workflow("w"):
        run(agent_of(delegate, told=[asked("call_o", "delegate", {"input": "go"})]))
    assert {row["tool"]: row["state"] for row in ledger.calls()} == {"wire": "failed", "delegate": "succeeded"}


def test_a_tool_and_its_agent_stay_as_they_were_and_run_on_when_nobody_guards(kind, instrument):
    call, tool_of, _, result = kind
    doing = Doing(result)
    tool = tool_of(doing)
    before = dict(vars(tool))
    instrument(rules=[BY_ARGUMENTS])
    model = ScriptedModel([[call()], [assistant_message("done")], [call()], [assistant_message("done")]])
    agent = Agent("support", tools=[tool], model=model)
    with workflow("w"):
        run(agent)
    assert vars(tool) == before
    spanledger.uninstrument()
    run(agent)
    assert doing.done == 2
