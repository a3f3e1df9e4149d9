"""Agents made with LangChain's `create_agent`: a call is a task of its own, with an identity that a resume keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_world import BY_ARGUMENTS, answers, asked
from langgraph.checkpoint.memory import InMemorySaver

from spanledger import Budget, Calls, Rule, errors

LIBRARIES = ["langchain", "langgraph"]
TWO = [asked("call_a"), asked("call_b", order_id="o-2", amount=1)]


class Model(GenericFakeChatModel):
    """A model that says what it is told to, whatever tools it is given."""

    def bind_tools(self, tools: Any, **_: Any) -> Model:
        return self


def said(*turns: Any) -> Iterator[AIMessage]:
    """Turn after turn: tools to ask for, or text."""
    return iter([AIMessage(t) if isinstance(t, str) else AIMessage("", tool_calls=t) for t in turns])


def agent_of(tool: Any, *turns: Any, **made: Any) -> Any:
    return create_agent(Model(messages=said(*turns)), [tool], name="support", **made)


def run(agent: Any, given: Any, *, awaiting: bool, thread: str = "t-1") -> Any:
    config: Any = {"configurable": {"thread_id": thread}}
    return asyncio.run(agent.ainvoke(given, config)) if awaiting else agent.invoke(given, config)


GO = {"messages": [("user", "go")]}


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("awaiting", [False, True])
def test_calls_asked_for_at_once_are_under_one_span_of_the_run(awaiting, instrument, refund, spans):
    instrument(rules=[BY_ARGUMENTS])
    state = run(agent_of(refund, TWO, "done"), GO, awaiting=awaiting)
    assert {call_id for call_id, _ in answers(state)} == {"call_a", "call_b"}
    root = spans.one("invoke_agent support")
    assert {span.parent.span_id for span in spans.all("execute_tool refund")} == {root.context.span_id}


@pytest.mark.parametrize("awaiting", [False, True])
def test_a_run_that_broke_off_goes_on_with_the_same_calls_and_the_next_turn_has_its_own(
    awaiting, instrument, refund, world, ledger
):
    instrument(rules=[BY_ARGUMENTS])
    agent = agent_of(refund, [asked("call_a")], [asked("call_b")], "done", checkpointer=InMemorySaver())
    world.raises = [ValueError("no")]
    with pytest.raises(ValueError, match="no"):
        run(agent, GO, awaiting=awaiting)
    state = run(agent, None, awaiting=awaiting)
    assert [call_id for call_id, _ in answers(state)] == ["call_a", "call_b"]
    assert {(row["attempts"], row["call_id"]) for row in ledger.calls()} == {(2, "call_a"), (1, "call_b")}
    assert len({row["workflow_id"] for row in ledger.calls()}) == 2


@pytest.mark.parametrize("awaiting", [False, True])
def test_one_of_two_calls_that_needs_a_person_waits_and_the_other_is_not_made_again(
    awaiting, instrument, refund, world, ledger
):
    asks = Rule("refund", identity="arguments", approval=lambda given: given["amount"] > 1, wait_timeout_s=0)
    instrument(rules=[asks])
    agent = agent_of(refund, TWO, "done", checkpointer=InMemorySaver())
    (waits,) = run(agent, GO, awaiting=awaiting)["__interrupt__"]
    assert world.refunded == ["o-2"]
    ledger.approve(waits.id, by="ops")
    state = run(agent, None, awaiting=awaiting)
    assert dict(answers(state)) == {"call_a": "refund 2", "call_b": "refund 1"}
    assert world.refunded == ["o-2", "o-1"]


@pytest.mark.parametrize("on_refusal", ["raise", "tell"])
def test_a_refusal_stops_the_agent_or_is_told(on_refusal, instrument, refund, world):
    instrument(rules=[Rule("refund", on_refusal=on_refusal)], budgets=[Budget("few", Calls(0))])
    agent = agent_of(refund, [asked("call_a")], "sorry")
    if on_refusal == "raise":
        with pytest.raises(errors.BudgetExceeded):
            run(agent, GO, awaiting=False)
    else:
        assert run(agent, GO, awaiting=False)["messages"][-1].content == "sorry"
    assert world.refunded == []
