"""A call of a graph that a person has to approve: where the graph keeps what it has done, its run is suspended."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.tools import tool as langchain_tool
from langchain_world import answers, asked, graph_of, told_by
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from opentelemetry.trace import StatusCode

from spanledger import Rule, errors

LIBRARIES = ["langchain", "langgraph"]
ASK = Rule("refund", identity="arguments", approval=True, wait_timeout_s=0)


class Graph:
    """A graph in a thread of its own, run with or without awaiting."""

    def __init__(self, tool: Any, *, awaiting: bool) -> None:
        self._graph = graph_of(tool, checkpointer=InMemorySaver())
        self._awaiting = awaiting

    def run(self, given: Any) -> dict[str, Any]:
        thread: Any = {"configurable": {"thread_id": "t-1"}}
        if self._awaiting:
            return asyncio.run(self._graph.ainvoke(given, thread))
        return self._graph.invoke(given, thread)


@pytest.fixture(params=[False, True], ids=["invoke", "ainvoke"])
def graph(request, refund) -> Graph:
    return Graph(refund, awaiting=request.param)


def approve(ledger: Any) -> None:
    (approval,) = ledger.approvals()
    ledger.approve(approval.id, by="ops")


@pytest.mark.parametrize("resume", [None, Command(resume="go on"), Command(resume={"any": "thing"})])
def test_the_run_is_suspended_and_goes_on_when_it_is_resumed_after_a_yes(resume, instrument, graph, ledger, spans):
    instrument(rules=[ASK])
    paused = graph.run(told_by(asked("call_a")))
    (approval,) = ledger.approvals()
    (shown,) = paused["__interrupt__"]
    assert (shown.id, shown.value["approval_id"]) == (approval.id, approval.id)
    waits = spans.one("execute_tool refund")
    assert waits.attributes["spanledger.verdict"] == "awaiting_approval"
    assert waits.status.status_code is StatusCode.UNSET
    approve(ledger)
    assert answers(graph.run(resume)) == [("call_a", "refund 1")]
    assert {span.status.status_code for span in spans.all()} == {StatusCode.UNSET}


def test_who_resumes_without_a_yes_is_suspended_again(instrument, graph, world, ledger):
    instrument(rules=[ASK])
    graph.run(told_by(asked("call_a")))
    for resume in (Command(resume="yes, I say so myself"), None):
        assert len(graph.run(resume)["__interrupt__"]) == 1
    assert world.refunded == []
    approve(ledger)
    assert answers(graph.run(Command(resume="now"))) == [("call_a", "refund 1")]


def test_a_no_stops_the_run_or_is_told(instrument, graph, world, ledger):
    for on_refusal in ("raise", "tell"):
        instrument(rules=[Rule("refund", approval=True, wait_timeout_s=0, on_refusal=on_refusal)])
        graph.run(told_by(asked(f"call_{on_refusal}")))
        (approval,) = ledger.approvals()
        ledger.deny(approval.id, by="ops", reason="not this one")
        if on_refusal == "raise":
            with pytest.raises(errors.ApprovalDenied, match="not this one"):
                graph.run(None)
        else:
            assert "not this one" in answers(graph.run(None))[-1][1]
    assert world.refunded == []


@pytest.mark.parametrize("awaiting", [False, True])
def test_what_resumes_the_run_is_no_answer_to_a_question_of_the_tool(awaiting, instrument, world, ledger):
    instrument(rules=[ASK])

    @langchain_tool
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        return world.refund(order_id) if interrupt("sure?") == "sure" else "no"

    graph = Graph(refund, awaiting=awaiting)
    graph.run(told_by(asked("call_a")))
    graph.run(Command(resume="not yet"))
    approve(ledger)
    assert [i.value for i in graph.run(Command(resume="go on"))["__interrupt__"]] == ["sure?"]
    assert world.refunded == []
    assert answers(graph.run(Command(resume="sure"))) == [("call_a", "refund 1")]


def test_calls_asked_for_at_once_are_approved_one_by_one(instrument, graph, world, ledger):
    instrument(rules=[ASK])
    graph.run(told_by(asked("call_a"), asked("call_b", order_id="o-2", amount=1), asked("call_c", "unknown", x=1)))
    while ledger.approvals():
        for approval in ledger.approvals():
            ledger.approve(approval.id, by="ops")
        done = graph.run(Command(resume="go on"))
    assert sorted(world.refunded) == ["o-1", "o-2"]
    assert {call_id for call_id, _ in answers(done)} == {"call_a", "call_b", "call_c"}


def test_a_graph_that_keeps_nothing_is_told_that_the_call_waits(instrument, refund, world):
    instrument(rules=[ASK])
    with pytest.raises(errors.ApprovalPending):
        graph_of(refund).invoke(told_by(asked("call_a")))
    assert world.refunded == []
