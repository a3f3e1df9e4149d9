"""Agents of the OpenAI Agents SDK: once by rule, under one span a run, stopped in the way that the SDK lets through."""

from __future__ import annotations

import asyncio
import copy
import pickle
from dataclasses import dataclass
from typing import Any

import pytest
from agents import (
    Agent,
    ModelBehaviorError,
    RunState,
    ToolOutputFileContent,
    ToolOutputImage,
    ToolOutputText,
    function_tool,
    handoff,
    set_trace_processors,
)
from agents.exceptions import AgentsException, ToolTimeoutError, UserError
from agents.run_internal import tool_execution
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.tool_context import ToolContext
from agents_world import WAYS, agent_of, asked, outputs, run
from opentelemetry.trace import StatusCode

import spanledger
from spanledger import Budget, Calls, Rule, errors, workflow

LIBRARIES = ["openai_agents"]
BY_ARGUMENTS = Rule("refund", identity="arguments")
FEW = Budget("few", Calls(1), match="refund")


@pytest.fixture(autouse=True)
def traces_stay_here() -> None:
    """The SDK's own traces are made as ever, and not sent to anybody."""
    set_trace_processors([])


@pytest.fixture
def refunded() -> list[str]:
    return []


@pytest.fixture
def refund(refunded: list[str]) -> Any:
    @function_tool
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        refunded.append(order_id)
        return f"refund {len(refunded)}"

    return refund


def failing(error: BaseException, **options: Any) -> Any:
    """A tool that takes effect and then raises."""

    @function_tool(**options)
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        raise error

    return refund


# --- the run


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_run_is_one_span_with_the_calls_under_it(way, instrument, refund, refunded, spans):
    instrument(rules=[BY_ARGUMENTS])
    first, second = (WAYS[way](agent_of(refund, told=[asked(id_)]), group_id="g") for id_ in ("call_a", "call_b"))
    assert outputs(first) == outputs(second) == ["refund 1"]
    assert refunded == ["o-1"]
    runs, tools = spans.all("invoke_agent support"), spans.all("execute_tool refund")
    assert [span.parent.span_id for span in tools] == [span.context.span_id for span in runs]
    assert [span.attributes["spanledger.verdict"] for span in tools] == ["run", "replay"]
    assert [span.attributes["gen_ai.tool.call.id"] for span in tools] == ["call_a", "call_b"]
    assert {span.attributes["gen_ai.agent.name"] for span in (*runs, *tools)} == {"support"}
    assert {span.attributes["gen_ai.conversation.id"] for span in runs} == {"g"}


@pytest.mark.usefixtures("in_workflow")
def test_an_agent_used_as_a_tool_is_guarded_and_so_are_its_tools(instrument, refund, refunded, spans):
    instrument(rules=[BY_ARGUMENTS])
    clerk = agent_of(refund, name="clerk").as_tool("ask_clerk", "Ask the clerk.")
    told = [asked("call_x", "ask_clerk", {"input": "refund o-1"})]
    assert outputs(run(agent_of(clerk, told=told))) == ["done"]
    inner, outer = spans.one("execute_tool refund"), spans.one("execute_tool ask_clerk")
    clerks = spans.one("invoke_agent clerk")
    assert inner.parent.span_id == clerks.context.span_id
    assert clerks.parent.span_id == outer.context.span_id
    assert [s.attributes["spanledger.verdict"] for s in (inner, outer)] == ["run", "run"]


@pytest.mark.usefixtures("guarded")
def test_a_handoff_is_neither_a_tool_nor_a_failure(refund, refunded, spans):
    clerk = agent_of(refund, name="clerk")
    told = [function_call("transfer_to_clerk", "{}", call_id="call_h")]
    result = run(agent_of(told=told, handoffs=[handoff(clerk)]))
    assert result.final_output == "done"
    assert [s.name for s in spans.all()] == ["execute_tool refund", "invoke_agent support"]
    assert spans.one("execute_tool refund").attributes["gen_ai.agent.name"] == "clerk"


# --- which calls are the same


def test_a_group_is_the_conversation_and_a_trace_its_turn(instrument, refund, refunded, spans):
    instrument(rules=[BY_ARGUMENTS])
    for trace_id in ("trace_1", "trace_1", "trace_2"):
        run(agent_of(refund), group_id="g-1", trace_id=trace_id)
    assert len(refunded) == 2
    ran = spans.all("execute_tool refund")[0].attributes
    assert (ran["spanledger.workflow.id"], ran["spanledger.workflow.source"]) == ('["g-1","trace_1",null]', "framework")


def test_a_rule_can_make_a_whole_group_the_scope(instrument, refund, refunded):
    instrument(rules=[Rule("refund", identity="arguments", scope="workflow")])
    for group in ("g-1", "g-1", "g-2"):
        run(agent_of(refund), group_id=group)
    assert len(refunded) == 2


@pytest.mark.parametrize("config", [{"trace_id": "trace_1"}, {"group_id": "g", "tracing_disabled": True}])
def test_without_a_group_or_a_trace_the_other_is_the_scope(config, instrument, refund, refunded):
    instrument(rules=[BY_ARGUMENTS])
    for _ in range(2):
        run(agent_of(refund), **config)
    assert len(refunded) == 1


def test_a_run_that_waited_for_the_sdk_s_own_approval_goes_on_in_its_scope(instrument, refunded, ledger):
    instrument(rules=[BY_ARGUMENTS])

    @function_tool(needs_approval=True)
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        refunded.append(order_id)
        return "done"

    agent = agent_of(refund)
    paused = run(agent, group_id="g-1").to_state().to_json()
    assert ledger.calls() == []
    for _ in range(2):
        agent.model = ScriptedModel([[assistant_message("done")]])
        state = asyncio.run(RunState.from_json(agent, paused))
        state.approve(state.get_interruptions()[0])
        assert outputs(run(agent, state, group_id="g-1")) == ["done"]
    assert refunded == ["o-1"]


# --- what goes wrong


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("options", [{}, {"failure_error_function": lambda _context, _error: "sorry"}])
def test_an_error_that_the_sdk_puts_into_words_is_a_failure_and_no_result(options, instrument, refund, ledger, spans):
    instrument(rules=[BY_ARGUMENTS])
    result = run(agent_of(failing(ValueError("card expired"), **options)))
    assert outputs(result)[0].startswith("An error occurred" if not options else "sorry")
    failed = spans.one("execute_tool refund")
    assert failed.attributes["spanledger.call.outcome"] == "failed"
    assert failed.status.status_code is StatusCode.ERROR
    assert outputs(run(agent_of(refund))) == ["refund 1"]
    (row,) = ledger.calls()
    assert (row["state"], row["attempts"]) == ("succeeded", 2)


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"timeout_error_function": lambda _context, _error: "took too long"},
        {"timeout_behavior": "raise_exception"},
    ],
)
def test_a_tool_that_took_too_long_may_have_taken_effect(options, instrument, refund, spans):
    instrument(rules=[BY_ARGUMENTS])

    @function_tool(timeout=0.01, **options)
    async def slow(order_id: str, amount: int) -> str:
        """Refund an order."""
        await asyncio.sleep(60)

    slow.name = "refund"
    if "timeout_behavior" in options:
        with pytest.raises(ToolTimeoutError):
            run(agent_of(slow))
    else:
        assert len(outputs(run(agent_of(slow)))) == 1
    assert spans.one("execute_tool refund").attributes["spanledger.call.outcome"] == "unknown"
    with pytest.raises(errors.OutcomeUnknown):
        run(agent_of(refund))


@pytest.mark.usefixtures("in_workflow")
def test_a_connection_that_broke_behind_the_sdk_s_words_is_not_tried_again(instrument, refund, refunded):
    instrument(rules=[BY_ARGUMENTS])
    run(agent_of(failing(ConnectionResetError("gone"))))
    with pytest.raises(errors.OutcomeUnknown):
        run(agent_of(refund))
    assert refunded == []


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("arguments", ["not json", '{"order_id": ', "[1]", '{"amount": NaN}'])
def test_arguments_that_are_no_json_never_break_the_run(arguments, instrument, refund, refunded, spans):
    instrument()
    with pytest.raises(ModelBehaviorError):
        run(agent_of(failing(ValueError(), failure_error_function=None), told=[asked("call_a", arguments=arguments)]))
    assert "error" in outputs(run(agent_of(refund, told=[asked("call_b", arguments=arguments)])))[0]
    assert refunded == []


@pytest.mark.usefixtures("in_workflow")
def test_a_call_cancelled_because_its_sibling_failed_is_not_run_again_unasked(instrument, refund, refunded, ledger):
    instrument(rules=[BY_ARGUMENTS])
    begun = asyncio.Event()

    @function_tool(failure_error_function=None)
    async def refund_or_fail(order_id: str, amount: int) -> str:
        """Refund an order."""
        if order_id == "o-1":
            begun.set()
            await asyncio.sleep(60)
        await begun.wait()
        raise ValueError(order_id)

    refund_or_fail.name = "refund"
    told = [asked("call_a"), asked("call_b", arguments={"order_id": "o-2", "amount": 1})]
    with pytest.raises(UserError) as caught:
        run(agent_of(refund_or_fail, told=told))
    assert isinstance(caught.value.__cause__, ValueError)
    assert sorted(row["state"] for row in ledger.calls()) == ["failed", "unknown"]
    with pytest.raises(errors.OutcomeUnknown):
        run(agent_of(refund))
    assert refunded == []


# --- refusals


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("way", WAYS)
def test_a_refusal_stops_the_run_as_an_error_of_the_sdk_and_of_ours(way, instrument, refund, refunded, spans):
    instrument(budgets=[FEW])
    run(agent_of(refund))
    with pytest.raises(errors.BudgetExceeded) as caught:
        WAYS[way](agent_of(refund, told=[asked("call_b")]))
    assert isinstance(caught.value, AgentsException)
    assert caught.value.budget == "few"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), again.budget) == (errors.BudgetExceeded, "few")
    assert refunded == ["o-1"]
    assert spans.all("invoke_agent support")[-1].status.status_code is StatusCode.ERROR


@pytest.mark.usefixtures("in_workflow")
def test_a_refusal_inside_an_agent_used_as_a_tool_stops_the_run_around_it(instrument, refund, refunded):
    instrument(budgets=[FEW])
    run(agent_of(refund))
    clerk = agent_of(refund, name="clerk", told=[asked("call_b")]).as_tool("ask_clerk", "Ask the clerk.")
    with pytest.raises(errors.BudgetExceeded):
        run(agent_of(clerk, told=[asked("call_x", "ask_clerk", {"input": "refund o-1"})]))
    assert refunded == ["o-1"]


@pytest.mark.usefixtures("in_workflow")
def test_a_refusal_is_told_to_the_model_where_the_rule_says_so(instrument, refund, refunded):
    instrument(rules=[Rule("refund", on_refusal="tell")], budgets=[FEW])
    run(agent_of(refund))
    result = run(agent_of(refund, told=[asked("call_b")]))
    assert result.final_output == "done"
    assert outputs(result)[0].startswith("Not done:")
    assert refunded == ["o-1"]


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("on_refusal", ["raise", "tell"])
def test_a_guarded_function_made_a_tool_is_refused_as_its_rule_says(on_refusal, instrument, refunded):
    instrument(rules=[Rule("shop.refund", on_refusal=on_refusal)], budgets=[Budget("few", Calls(0), match="shop.*")])

    @function_tool
    @spanledger.tool("shop.refund")
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        refunded.append(order_id)
        return "done"

    if on_refusal == "raise":
        with pytest.raises(errors.BudgetExceeded):
            run(agent_of(refund))
    else:
        assert "few" in outputs(run(agent_of(refund)))[0]
    assert refunded == []


# --- what is kept


@dataclass
class Receipt:
    cents: int


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize(
    "value",
    [
        "text",
        {"cents": 10, "at": (1, 2)},
        ["a", None, 1.5],
        ToolOutputText(text="paid"),
        [ToolOutputText(text="paid"), ToolOutputImage(image_url="https://example.com/a.png", detail="low")],
        ToolOutputFileContent(file_data="aGk=", filename="a.txt"),
    ],
)
def test_a_replay_has_the_value_and_type_of_what_ran(value, instrument):
    instrument(rules=[BY_ARGUMENTS])
    ran = []

    @function_tool
    def refund(order_id: str, amount: int) -> Any:
        """Refund an order."""
        ran.append(order_id)
        return value

    first, second = (outputs(run(agent_of(refund, told=[asked(call_id)]))) for call_id in ("call_a", "call_b"))
    assert first == second == [value]
    assert type(second[0]) is type(value)
    assert ran == ["o-1"]


@pytest.mark.usefixtures("in_workflow")
def test_an_object_of_another_kind_is_not_kept(instrument):
    instrument(rules=[BY_ARGUMENTS])

    @function_tool
    def refund(order_id: str, amount: int) -> Any:
        """Refund an order."""
        return Receipt(10)

    assert outputs(run(agent_of(refund))) == [Receipt(10)]
    with pytest.raises(errors.ResultNotKept):
        run(agent_of(refund))


@pytest.mark.usefixtures("in_workflow")
def test_a_row_of_the_ledger_cannot_name_what_is_made_of_it(instrument, refund, sql):
    instrument(rules=[BY_ARGUMENTS])
    run(agent_of(refund))
    sql.execute("""update spanledger.call set result = '{"$record": ["ToolContext", {"tool_name": "x"}]}'""")
    assert outputs(run(agent_of(refund))) == [{"tool_name": "x"}]


# --- the patches


@pytest.mark.usefixtures("in_workflow")
def test_the_function_that_runs_a_tool_for_realtime_sessions_is_guarded(instrument, refund, refunded):
    from agents.tool import invoke_function_tool

    instrument(rules=[BY_ARGUMENTS])
    given = '{"order_id": "o-1", "amount": 10}'
    for call_id in ("call_a", "call_b"):
        context = ToolContext(None, tool_name="refund", tool_call_id=call_id, tool_arguments=given)
        said = asyncio.run(invoke_function_tool(function_tool=refund, context=context, arguments=given))
        assert said == "refund 1"
    assert refunded == ["o-1"]


def test_both_places_of_the_function_are_put_back(instrument):
    from agents import tool

    before = tool._invoke_function_tool_with_metadata
    assert tool_execution._invoke_function_tool_with_metadata is before
    for _ in range(2):
        instrument()
        assert tool._invoke_function_tool_with_metadata is not before
        assert tool_execution._invoke_function_tool_with_metadata is not before
    spanledger.uninstrument()
    assert tool._invoke_function_tool_with_metadata is before
    assert tool_execution._invoke_function_tool_with_metadata is before


@pytest.mark.usefixtures("guarded")
def test_tools_and_agents_can_be_copied(refund, refunded):
    agent = agent_of(copy.deepcopy(refund))
    assert isinstance(agent.clone(name="other"), Agent)
    with workflow("other"):
        run(copy.copy(agent))
    assert refunded == ["o-1"]
