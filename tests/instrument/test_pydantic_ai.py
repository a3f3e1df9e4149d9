"""Agents of Pydantic AI: once by rule, under one span a run; its own ways to go on are neither success nor failure."""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.trace import StatusCode
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, RunContext, Tool
from pydantic_ai.capabilities import Instrumentation
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, UnexpectedModelBehavior
from pydantic_ai.messages import BinaryContent, ImageUrl, ToolReturn
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults
from pydantic_world import WAYS, agent_of, asked, iterate, returns, run, told_error

from spanledger import Budget, Calls, Rule, errors

LIBRARIES = ["pydantic_ai"]
BY_ARGUMENTS = Rule("refund", identity="arguments")
FEW = Budget("few", Calls(1), match="refund")


@pytest.fixture
def refunded() -> list[str]:
    return []


@pytest.fixture
def refund(refunded: list[str]) -> Any:
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        refunded.append(order_id)
        return f"refund {len(refunded)}"

    return refund


def raising(error: BaseException) -> Any:
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        raise error

    return refund


def contents(messages: Any) -> list[Any]:
    return [part.content for part in returns(messages)]


class Order(BaseModel):
    id: str
    amount: float = 10


# --- the run


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_run_is_one_span_with_the_calls_under_it(way, instrument, refund, refunded, spans):
    instrument(rules=[BY_ARGUMENTS])
    first, second = (WAYS[way](agent_of(refund, told=[asked(id_)]), conversation_id="c") for id_ in ("a_1", "b_1"))
    assert contents(first) == contents(second) == ["refund 1"]
    assert refunded == ["o-1"]
    runs, tools = spans.all("invoke_agent support"), spans.all("execute_tool refund")
    assert [span.parent.span_id for span in tools] == [span.context.span_id for span in runs]
    assert [span.attributes["spanledger.verdict"] for span in tools] == ["run", "replay"]
    assert [span.attributes["gen_ai.tool.call.id"] for span in tools] == ["a_1", "b_1"]
    assert {span.attributes["gen_ai.conversation.id"] for span in runs} == {"c"}
    assert {span.status.status_code for span in spans.all()} == {StatusCode.UNSET}


@pytest.mark.usefixtures("guarded")
def test_a_run_keeps_the_name_that_the_framework_finds_for_it(refund, spans):
    async def main() -> None:
        clerk = agent_of(refund, name=None)
        await clerk.run("go")
        assert clerk.name == "clerk"

    asyncio.run(main())
    spans.one("invoke_agent clerk")


@pytest.mark.usefixtures("guarded")
def test_a_run_that_is_left_by_an_error_of_the_program_is_a_failed_span(refund, spans):
    async def main() -> None:
        async with agent_of(refund).iter("go"):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(main())
    assert spans.one("invoke_agent support").attributes["error.type"] == "KeyError"


@pytest.mark.usefixtures("in_workflow")
def test_an_agent_asked_by_a_tool_is_guarded_and_so_are_its_tools(instrument, refund, refunded, spans):
    instrument(rules=[BY_ARGUMENTS])
    clerk = agent_of(refund, name="clerk")

    async def ask_clerk(context: RunContext[None], question: str) -> str:
        """Ask the clerk."""
        return str((await clerk.run(question, usage=context.usage)).output)

    run(agent_of(ask_clerk, told=[asked("x_1", "ask_clerk", {"question": "refund?"})]))
    inner, outer = spans.one("execute_tool refund"), spans.one("execute_tool ask_clerk")
    clerks = spans.one("invoke_agent clerk")
    assert (inner.parent.span_id, clerks.parent.span_id) == (clerks.context.span_id, outer.context.span_id)
    assert refunded == ["o-1"]


@pytest.mark.usefixtures("in_workflow")
def test_output_tools_are_no_calls(instrument, spans, ledger):
    instrument()

    class Answer(BaseModel):
        text: str

    result = asyncio.run(agent_of(output_type=Answer, told=[asked("x_1", "final_result", {"text": "hi"})]).run("go"))
    assert result.output == Answer(text="hi")
    assert ledger.calls() == []


# --- which calls are the same


def test_a_conversation_is_narrowed_to_the_run_that_asked(instrument, refund, refunded, spans):
    instrument(rules=[BY_ARGUMENTS])
    # Older versions name runs themselves.
    named = "run_id" in inspect.signature(Agent.run).parameters
    for run_id in ("r-1", "r-1", "r-2") if named else (None, None):
        run(agent_of(refund), conversation_id="c-1", **({"run_id": run_id} if named else {}))
    assert len(refunded) == 2
    ran = spans.all("execute_tool refund")[0].attributes
    conversation, turn, _ = json.loads(ran["spanledger.workflow.id"])
    assert (conversation, turn in ("r-1", None)) == ("c-1", named)
    assert ran["spanledger.workflow.source"] == "framework"


@pytest.mark.usefixtures("in_workflow")
def test_a_call_is_known_by_its_validated_arguments(instrument, refunded, ledger):
    instrument(rules=[BY_ARGUMENTS])

    def refund(order: Order) -> str:
        """Refund an order."""
        refunded.append(order.id)
        return "done"

    for given in ({"id": "o-1"}, '{"id": "o-1", "amount": "10"}'):
        run(agent_of(Tool(refund, name="refund"), told=[asked(arguments=given)]))
    assert refunded == ["o-1"]


# --- what goes wrong, and what goes on


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("way", [run, iterate])
def test_a_request_to_ask_again_is_neither_success_nor_failure(way, instrument, ledger, refunded, spans):
    instrument(rules=[BY_ARGUMENTS])

    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        if not refunded:
            refunded.append("not yet")
            raise ModelRetry("say please")
        return "done"

    parts = returns(way(agent_of(refund)))
    assert "say please" in str(parts[0].content)
    assert spans.one("execute_tool refund").status.status_code is StatusCode.UNSET
    assert [(row["state"], row["attempts"]) for row in ledger.calls()] == [("released", 0)]
    way(agent_of(refund))
    assert [(row["state"], row["attempts"]) for row in ledger.calls()] == [("succeeded", 1)]


@pytest.mark.usefixtures("in_workflow")
def test_a_failure_told_to_the_model_has_failed_and_an_error_stops_the_run(instrument, refund, ledger):
    instrument(rules=[BY_ARGUMENTS])
    if told_error:
        assert contents(run(agent_of(raising(told_error("card expired"))))) == ["card expired"]
        assert [row["state"] for row in ledger.calls()] == ["failed"]
    with pytest.raises(ZeroDivisionError):
        run(agent_of(raising(ZeroDivisionError())))
    assert contents(run(agent_of(refund))) == ["refund 1"]


@pytest.mark.usefixtures("in_workflow")
def test_a_tool_that_took_too_long_may_have_taken_effect(instrument, refund, refunded, spans):
    instrument(rules=[BY_ARGUMENTS])

    async def slow(order_id: str, amount: int) -> str:
        """Refund an order."""
        await asyncio.sleep(60)

    parts = returns(run(agent_of(Tool(slow, name="refund", timeout=0.01))))
    assert "Timed out" in str(parts[0].content)
    span = spans.one("execute_tool refund")
    assert (span.attributes["spanledger.call.outcome"], span.status.status_code) == ("unknown", StatusCode.ERROR)
    with pytest.raises(errors.OutcomeUnknown):
        run(agent_of(refund))
    assert refunded == []


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("arguments", ["not json", {"order_id": 7}, {}])
def test_arguments_that_the_tool_rejects_never_reach_it_nor_the_ledger(arguments, refund, refunded, ledger):
    run(agent_of(refund, told=[asked(arguments=arguments)]))
    with pytest.raises(UnexpectedModelBehavior):
        run(agent_of(Tool(refund, max_retries=0), told=[asked(arguments=arguments)]))
    assert (refunded, ledger.calls()) == ([], [])


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("kind", [CallDeferred, ApprovalRequired])
def test_a_call_that_the_tool_defers_is_neither_success_nor_failure(kind, instrument, ledger, spans):
    instrument(rules=[BY_ARGUMENTS])
    agent = agent_of(raising(kind()), output_type=[str, DeferredToolRequests])
    assert isinstance(asyncio.run(agent.run("go")).output, DeferredToolRequests)
    assert [(row["state"], row["attempts"]) for row in ledger.calls()] == [("released", 0)]
    assert spans.one("execute_tool refund").status.status_code is StatusCode.UNSET


# --- refusals and approvals


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("way", WAYS)
def test_a_refusal_stops_the_run_or_is_told(way, instrument, refund, refunded):
    instrument(budgets=[FEW])
    WAYS[way](agent_of(refund))
    with pytest.raises(errors.BudgetExceeded):
        WAYS[way](agent_of(refund, told=[asked("b_1")]))
    instrument(rules=[Rule("refund", on_refusal="tell")], budgets=[FEW])
    (said,) = contents(WAYS[way](agent_of(refund, told=[asked("c_1")])))
    assert said.startswith("Not done:")
    assert refunded == ["o-1"]


@pytest.mark.parametrize("answer", ["yes", "no", None])
@pytest.mark.parametrize("output_type", [[str, DeferredToolRequests], str | DeferredToolRequests])
def test_a_call_that_waits_for_a_person_is_a_deferred_request(answer, output_type, instrument, refunded, ledger):
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        refunded.append(order_id)
        return "done"

    instrument(rules=[Rule("refund", identity="arguments", approval=True, wait_timeout_s=0)])
    agent = agent_of(refund, output_type=output_type)
    paused = asyncio.run(agent.run("go"))
    assert isinstance(paused.output, DeferredToolRequests)
    (asked_for,), (approval,) = paused.output.approvals, ledger.approvals()
    assert paused.output.metadata[asked_for.tool_call_id]["approval_id"] == approval.id

    def resumed() -> Any:
        decided = DeferredToolResults(approvals={asked_for.tool_call_id: True})
        history = paused.all_messages()
        return asyncio.run(agent.run(message_history=history, deferred_tool_results=decided))

    if answer is None:
        assert isinstance(resumed().output, DeferredToolRequests), "whatever the program says, the ledger decides"
    elif answer == "no":
        ledger.deny(approval.id, by="ops", reason="not this one")
        with pytest.raises(errors.ApprovalDenied, match="not this one"):
            resumed()
    else:
        ledger.approve(approval.id, by="ops")
        assert resumed().output == "done"
    assert refunded == (["o-1"] if answer == "yes" else [])


@pytest.mark.usefixtures("in_workflow")
def test_an_agent_that_cannot_give_back_a_request_is_told_that_the_call_waits(instrument, refund, refunded):
    instrument(rules=[Rule("refund", approval=True, wait_timeout_s=0)])
    with pytest.raises(errors.ApprovalPending):
        run(agent_of(refund))
    assert refunded == []


# --- what is kept


@dataclass
class Receipt:
    cents: int


class Paid(BaseModel):
    receipt: Receipt


IMAGE = ImageUrl(url="https://example.com/a.png")


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        ({"cents": 10, "at": (1, 2)}, Any),
        (Receipt(10), Receipt),
        (Paid(receipt=Receipt(1)), Paid),
        ([Receipt(1), Receipt(2)], list[Receipt]),
        (IMAGE, Any),
        ([IMAGE, BinaryContent(data=b"\x00\x01", media_type="image/png")], list),
        (ToolReturn("paid", content=["see", IMAGE], metadata={"cents": 10}), ToolReturn),
    ],
)
def test_a_replay_has_the_value_and_type_of_what_ran(value, annotation, instrument):
    instrument(rules=[BY_ARGUMENTS])
    ran = []

    def refund(order_id: str, amount: int) -> Any:
        """Refund an order."""
        ran.append(order_id)
        return value

    refund.__annotations__["return"] = annotation
    first, second = (run(agent_of(refund, told=[asked(call_id)])) for call_id in ("a_1", "b_1"))
    first_part, second_part = returns(first)[0], returns(second)[0]
    assert (second_part.content, second_part.metadata) == (first_part.content, first_part.metadata)
    assert type(second_part.content) is type(first_part.content)
    assert (first_part.tool_call_id, second_part.tool_call_id) == ("a_1", "b_1")
    assert ran == ["o-1"]


@pytest.mark.usefixtures("in_workflow")
def test_an_object_of_another_kind_is_not_kept(instrument):
    instrument(rules=[BY_ARGUMENTS])

    def refund(order_id: str, amount: int) -> Any:
        """Refund an order."""
        return Receipt(10)

    assert contents(run(agent_of(refund))) == [Receipt(10)]
    with pytest.raises(errors.ResultNotKept):
        run(agent_of(refund))


# --- beside what else there is


@pytest.mark.usefixtures("in_workflow")
def test_agents_and_tools_can_be_copied(instrument, refund, refunded):
    instrument(rules=[BY_ARGUMENTS])
    for tool in (Tool(refund), copy.copy(Tool(refund))):
        run(copy.copy(agent_of(tool)))
    assert refunded == ["o-1"]


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_where_the_framework_makes_spans_these_are_the_spans(everywhere, way, instrument, refund, spans):
    instrument(rules=[BY_ARGUMENTS])
    Agent.instrument_all(everywhere)
    given = {} if everywhere else {"capabilities": [Instrumentation()]}
    for call_id in ("a_1", "b_1"):
        assert contents(WAYS[way](agent_of(refund, told=[asked(call_id)], **given))) == ["refund 1"]
    Agent.instrument_all(False)
    tools, runs = spans.all("execute_tool refund"), spans.all("invoke_agent support")
    assert [span.attributes["spanledger.verdict"] for span in tools] == ["run", "replay"]
    assert [span.parent.span_id for span in tools] == [span.context.span_id for span in runs]
    assert {span.instrumentation_scope.name for span in (*tools, *runs)} == {"pydantic-ai"}


@pytest.mark.usefixtures("in_workflow")
def test_a_refusal_stands_on_the_framework_s_span_and_an_output_is_no_call(instrument, refund, spans, ledger):
    instrument(rules=[Rule("*", identity="arguments")], budgets=[Budget("few", Calls(0), match="refund")])
    with pytest.raises(errors.BudgetExceeded):
        run(agent_of(refund, capabilities=[Instrumentation()]))
    span = spans.one("execute_tool refund")
    assert (span.attributes["spanledger.verdict"], span.status.status_code) == ("budget_exceeded", StatusCode.ERROR)
    for _ in range(2):
        agent = agent_of(output_type=Order, told=[asked("x_1", "final_result", {"id": "o-1"})])
        assert asyncio.run(agent.run("go", capabilities=[Instrumentation()])).output == Order(id="o-1")
    assert ledger.calls(tool="final_result") == []
