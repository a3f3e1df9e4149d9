"""Tools of LangChain, run by hand and by LangGraph: once by rule, with the model told what happened."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from langchain_core.tools import tool as langchain_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, ToolNode, ToolRuntime
from langgraph.types import Command, interrupt
from opentelemetry.trace import StatusCode

import spanledger
from spanledger import Budget, Calls, Config, Money, Resolution, Rule, errors, workflow

BY_ARGUMENTS = Rule("refund", identity="arguments")
REFUND = {"order_id": "o-1", "amount": 10}


@pytest.fixture
def instrument(dsn: str) -> Callable[..., None]:
    """Instrument LangChain with the given fields of `Config`, on this test's database."""
    return lambda **fields: spanledger.instrument(Config(dsn=dsn, **fields), libraries=["langchain"])


class World:
    """What a refund does, and how often it was done."""

    def __init__(self) -> None:
        self.refunded: list[str] = []
        self.raises: list[BaseException] = []

    def refund(self, order_id: str) -> str:
        self.refunded.append(order_id)
        if self.raises:
            raise self.raises.pop(0)
        return f"refund {len(self.refunded)}"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def refund(world: World) -> BaseTool:
    @langchain_tool
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        return world.refund(order_id)

    return refund


@pytest.fixture
def refund_awaiting(world: World) -> BaseTool:
    @langchain_tool("refund")
    async def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        await asyncio.sleep(0)
        return world.refund(order_id)

    return refund


@pytest.fixture
def in_workflow() -> Iterator[None]:
    with workflow("w"):
        yield


def asked(call_id: str, name: str = "refund", **arguments: Any) -> dict[str, Any]:
    """What a model asks for."""
    return {"type": "tool_call", "id": call_id, "name": name, "args": arguments or REFUND}


def told_by(*calls: dict[str, Any]) -> dict[str, list[AnyMessage]]:
    """The state of a graph in which a model has just asked for tools."""
    return {"messages": [AIMessage("", tool_calls=list(calls))]}


def graph_of(tools: ToolNode | BaseTool, **compiled: Any) -> Any:
    """An agent that only runs the tools it is told to."""
    node = tools if isinstance(tools, ToolNode) else ToolNode([tools])
    return StateGraph(MessagesState).add_node("tools", node).add_edge(START, "tools").compile(**compiled)


def answers(state: dict[str, list[AnyMessage]]) -> list[tuple[str, str]]:
    return [(m.tool_call_id, m.content) for m in state["messages"] if isinstance(m, ToolMessage)]


# --- the ways in


WAYS = {
    "run": lambda tool, call_id: tool.run(REFUND, tool_call_id=call_id),
    "arun": lambda tool, call_id: asyncio.run(tool.arun(REFUND, tool_call_id=call_id)),
    "invoke": lambda tool, call_id: tool.invoke(asked(call_id)),
    "ainvoke": lambda tool, call_id: asyncio.run(tool.ainvoke(asked(call_id))),
    "graph": lambda tool, call_id: graph_of(tool).invoke(told_by(asked(call_id)))["messages"][-1],
    "graph, awaiting": lambda tool, call_id: asyncio.run(graph_of(tool).ainvoke(told_by(asked(call_id))))["messages"][
        -1
    ],
}
AWAITING = [name for name in WAYS if name in ("arun", "ainvoke", "graph, awaiting")]


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("way", WAYS)
def test_by_rule_a_repeated_call_is_answered_under_its_new_id_and_does_not_run(way, instrument, refund, world, spans):
    instrument(rules=[BY_ARGUMENTS])
    first, second = WAYS[way](refund, "call_a"), WAYS[way](refund, "call_b")
    assert type(first) is type(second) is ToolMessage
    assert (first.tool_call_id, second.tool_call_id) == ("call_a", "call_b")
    assert first.content == second.content == "refund 1"
    assert (second.name, second.status) == ("refund", "success")
    assert world.refunded == ["o-1"]
    ran, replayed = spans.all("execute_tool refund")
    assert [s.attributes["gen_ai.tool.call.id"] for s in (ran, replayed)] == ["call_a", "call_b"]
    assert [s.attributes["spanledger.verdict"] for s in (ran, replayed)] == ["run", "replay"]
    assert replayed.links[0].context.span_id == ran.context.span_id


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("way", AWAITING)
def test_a_tool_that_is_a_coroutine_runs_once_too(way, instrument, refund_awaiting, world):
    instrument(rules=[BY_ARGUMENTS])
    first, second = WAYS[way](refund_awaiting, "call_a"), WAYS[way](refund_awaiting, "call_b")
    assert (first.content, second.content, second.tool_call_id) == ("refund 1", "refund 1", "call_b")
    assert world.refunded == ["o-1"]


@pytest.mark.usefixtures("in_workflow")
def test_a_direct_call_without_an_id_gives_back_the_plain_value(instrument):
    instrument(rules=[Rule("lookup", identity="arguments")])
    lookup = StructuredTool.from_function(
        lambda order_id: {"order": order_id, "at": (1, 2)}, name="lookup", description="-"
    )
    first = lookup.invoke({"order_id": "o-1"})
    assert lookup.invoke({"order_id": "o-1"}) == first == {"order": "o-1", "at": (1, 2)}


@pytest.mark.usefixtures("in_workflow")
def test_content_and_artifact_both_come_back(instrument):
    instrument(rules=[BY_ARGUMENTS])
    ran = []

    @langchain_tool(response_format="content_and_artifact")
    def refund(order_id: str, amount: int) -> tuple[list, dict]:
        """Refund an order."""
        ran.append(order_id)
        return [{"type": "text", "text": "done"}], {"receipt": (1, order_id)}

    first, second = (refund.invoke(asked(call_id)) for call_id in ("call_a", "call_b"))
    assert (second.content, second.artifact) == (first.content, first.artifact)
    assert second.artifact == {"receipt": (1, "o-1")}
    assert ran == ["o-1"]


# --- which calls are the same


@pytest.mark.usefixtures("in_workflow")
def test_without_a_rule_the_id_of_the_call_and_its_arguments_tell(instrument, refund, world, ledger):
    instrument()
    for call in (asked("call_a"), asked("call_a"), asked("call_b"), asked("call_a", order_id="o-2", amount=1)):
        refund.invoke(call)
    assert world.refunded == ["o-1", "o-1", "o-2"]
    assert {row["key_source"] for row in ledger.calls()} == {"call_id"}


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("call_id", ["", "unknown", "call_0"])
def test_an_id_that_every_call_has_tells_nothing(call_id, instrument, refund, world):
    instrument()
    for _ in range(2):
        refund.invoke(asked(call_id))
    assert len(world.refunded) == 2


@pytest.mark.usefixtures("in_workflow")
def test_what_the_framework_injects_is_not_part_of_the_call(instrument):
    instrument(rules=[BY_ARGUMENTS])
    seen = []

    @langchain_tool
    def refund(order_id: str, messages: Annotated[list, InjectedState("messages")], runtime: ToolRuntime) -> str:
        """Refund an order."""
        seen.append((len(messages), runtime.tool_call_id))
        return "done"

    graph = graph_of(refund)
    graph.invoke(told_by(asked("call_a", order_id="o-1")))
    again = {"messages": [("user", "again"), *told_by(asked("call_b", order_id="o-1"))["messages"]]}
    assert answers(graph.invoke(again)) == [("call_b", "done")]
    assert seen == [(1, "call_a")]


def test_in_a_thread_a_resumed_call_is_replayed_and_one_of_the_next_turn_is_new(instrument, refund, world, ledger):
    instrument(rules=[BY_ARGUMENTS])
    graph = graph_of(refund, checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "t-1"}}
    for call_id in ("call_a", "call_b"):
        graph.invoke(told_by(asked(call_id)), thread)
    assert len(world.refunded) == 2
    scopes = {row["workflow_id"] for row in ledger.calls()}
    assert len(scopes) == 2
    assert all("t-1" in scope for scope in scopes)


def test_a_rule_can_make_a_whole_thread_the_scope(instrument, refund, world, spans):
    instrument(rules=[Rule("refund", identity="arguments", scope="workflow")])
    graph = graph_of(refund, checkpointer=InMemorySaver())
    for thread_id in ("t-1", "t-1", "t-2"):
        graph.invoke(told_by(asked(f"call_{thread_id}")), {"configurable": {"thread_id": thread_id}})
    assert len(world.refunded) == 2
    ran = spans.all("execute_tool refund")[0]
    assert ran.attributes["spanledger.workflow.id"] == "t-1"
    assert ran.attributes["spanledger.workflow.source"] == "framework"


def test_a_workflow_around_a_graph_is_the_scope_and_not_its_thread(instrument, refund, world):
    instrument(rules=[BY_ARGUMENTS])
    graph = graph_of(refund, checkpointer=InMemorySaver())
    for thread_id in ("t-1", "t-2"):
        with workflow("w"):
            graph.invoke(told_by(asked("call_a")), {"configurable": {"thread_id": thread_id}})
    assert len(world.refunded) == 1


# --- several at once


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("awaiting", [False, True])
def test_of_equal_calls_asked_for_at_once_one_runs_and_each_is_answered(awaiting, instrument, refund, world):
    instrument(rules=[BY_ARGUMENTS])
    told = told_by(asked("call_a"), asked("call_b"), asked("call_c", order_id="o-2", amount=1))
    state = asyncio.run(graph_of(refund).ainvoke(told)) if awaiting else graph_of(refund).invoke(told)
    said = dict(answers(state))
    assert said.keys() == {"call_a", "call_b", "call_c"}
    assert said["call_a"] == said["call_b"] != said["call_c"]
    assert sorted(world.refunded) == ["o-1", "o-2"]


# --- what goes wrong


@pytest.mark.usefixtures("in_workflow")
def test_an_exception_of_a_tool_passes_through_and_the_next_call_runs(instrument, refund, world, spans):
    instrument(rules=[BY_ARGUMENTS])
    world.raises = [ValueError("no")]
    error = world.raises[0]
    with pytest.raises(ValueError, match="no") as caught:
        graph_of(refund).invoke(told_by(asked("call_a")))
    assert caught.value is error
    assert spans.one("execute_tool refund").attributes["spanledger.call.outcome"] == "failed"
    assert refund.invoke(asked("call_b")).content == "refund 2"


@pytest.mark.usefixtures("in_workflow")
def test_a_timeout_of_a_tool_is_not_run_again(instrument, refund, world):
    instrument(rules=[BY_ARGUMENTS])
    world.raises = [TimeoutError()]
    with pytest.raises(TimeoutError):
        refund.invoke(asked("call_a"))
    with pytest.raises(errors.OutcomeUnknown):
        refund.invoke(asked("call_b"))
    assert len(world.refunded) == 1


@pytest.mark.usefixtures("in_workflow")
def test_an_error_that_the_framework_hides_is_a_failure_and_no_result(instrument, refund, world, ledger, spans):
    instrument(rules=[BY_ARGUMENTS])
    refund.handle_tool_error = True
    world.raises = [ToolException("card expired")]
    first, second = refund.invoke(asked("call_a")), refund.invoke(asked("call_b"))
    assert (first.content, first.status) == ("card expired", "error")
    assert (second.content, second.status) == ("refund 2", "success")
    failed = spans.all("execute_tool refund")[0]
    assert failed.attributes["spanledger.call.outcome"] == "failed"
    assert failed.status.status_code is StatusCode.ERROR
    (row,) = ledger.calls()
    assert (row["state"], row["attempts"]) == ("succeeded", 2)


@pytest.mark.usefixtures("in_workflow")
def test_arguments_that_the_tool_rejects_are_a_failure(instrument, refund, world):
    instrument(rules=[BY_ARGUMENTS])
    with pytest.raises(ValueError, match="amount"):
        refund.invoke(asked("call_a", order_id="o-1", amount="much"))
    assert world.refunded == []


# --- refusals


@pytest.mark.usefixtures("in_workflow")
def test_a_refusal_stops_the_run(instrument, refund, world):
    instrument(budgets=[Budget("few", Calls(1))])
    graph = graph_of(refund)
    graph.invoke(told_by(asked("call_a")))
    with pytest.raises(errors.BudgetExceeded):
        graph.invoke(told_by(asked("call_b")))
    assert len(world.refunded) == 1


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize("awaiting", [False, True])
def test_a_refusal_is_told_to_the_model_where_the_rule_says_so(awaiting, instrument, refund, world, spans):
    instrument(rules=[Rule("refund", on_refusal="tell")], budgets=[Budget("few", Calls(1))])
    graph = graph_of(refund)
    graph.invoke(told_by(asked("call_a")))
    told = told_by(asked("call_b"))
    message = (asyncio.run(graph.ainvoke(told)) if awaiting else graph.invoke(told))["messages"][-1]
    assert (message.tool_call_id, message.name, message.status) == ("call_b", "refund", "error")
    assert "few" in message.content
    assert "few" in refund.invoke(REFUND), "without an id there is no message, only its words"
    assert len(world.refunded) == 1
    assert spans.all("execute_tool refund")[1].attributes["spanledger.verdict"] == "budget_exceeded"


@pytest.mark.usefixtures("in_workflow")
def test_a_tool_that_is_not_known_to_have_run_is_not_told_as_refused(instrument, refund, world):
    instrument(rules=[Rule("refund", identity="arguments", on_refusal="tell")])
    world.raises = [TimeoutError()]
    with pytest.raises(TimeoutError):
        refund.invoke(asked("call_a"))
    with pytest.raises(errors.OutcomeUnknown):
        refund.invoke(asked("call_b"))


# --- what a graph does beyond


@pytest.mark.parametrize("awaiting", [False, True])
def test_an_interrupt_is_neither_success_nor_failure_and_the_tool_runs_on_resume(
    awaiting, instrument, world, ledger, spans
):
    instrument(rules=[BY_ARGUMENTS])

    @langchain_tool
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        return f"{world.refund(order_id)} {interrupt('really?')}" if interrupt("sure?") == "yes" else "no"

    graph = graph_of(refund, checkpointer=InMemorySaver())

    def run(given: Any) -> dict[str, Any]:
        thread = {"configurable": {"thread_id": "t-1"}}
        return asyncio.run(graph.ainvoke(given, thread)) if awaiting else graph.invoke(given, thread)

    paused = run(told_by(asked("call_a")))
    assert [i.value for i in paused["__interrupt__"]] == ["sure?"]
    span = spans.one("execute_tool refund")
    assert span.status.status_code is StatusCode.UNSET
    assert answers(run(Command(resume="no"))) == [("call_a", "no")]
    (row,) = ledger.calls()
    assert (row["state"], row["attempts"]) == ("succeeded", 1)
    assert world.refunded == []


@pytest.mark.usefixtures("in_workflow")
def test_a_command_reaches_the_graph_and_is_not_kept(instrument, spans):
    instrument(rules=[BY_ARGUMENTS])

    @langchain_tool
    def refund(order_id: str, runtime: ToolRuntime) -> Command:
        """Refund an order."""
        return Command(update={"messages": [ToolMessage("done", tool_call_id=runtime.tool_call_id)]})

    graph = graph_of(refund)
    assert answers(graph.invoke(told_by(asked("call_a", order_id="o-1")))) == [("call_a", "done")]
    assert spans.one("execute_tool refund").attributes["spanledger.call.result_kept"] is False
    with pytest.raises(errors.ResultNotKept):
        graph.invoke(told_by(asked("call_b", order_id="o-1")))


@pytest.mark.usefixtures("in_workflow")
def test_what_a_probe_finds_out_becomes_the_tool_s_message(instrument, refund, world):
    found = [None, Resolution("succeeded", {"refund": 7})]
    instrument(rules=[Rule("refund", identity="arguments", probe=lambda call, key: found.pop(0))])
    world.raises = [TimeoutError()]
    with pytest.raises(TimeoutError):
        refund.invoke(asked("call_a"))
    with pytest.raises(errors.OutcomeUnknown):
        refund.invoke(asked("call_b"))
    message = refund.invoke(asked("call_c"))
    assert (message.tool_call_id, message.content, message.status) == ("call_c", '{"refund": 7}', "success")
    assert len(world.refunded) == 1


@pytest.mark.usefixtures("in_workflow")
def test_tools_can_be_copied(instrument, refund, world):
    instrument(rules=[BY_ARGUMENTS])
    bound = copy.deepcopy({"run": refund.run, "tool": refund})
    assert bound["run"](REFUND) == bound["tool"].invoke(REFUND) == refund.invoke(REFUND) == "refund 1"


@pytest.mark.usefixtures("in_workflow")
def test_a_guarded_function_can_be_made_a_tool(instrument, world, ledger):
    instrument(rules=[BY_ARGUMENTS])

    @langchain_tool
    @spanledger.tool
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        return world.refund(order_id)

    assert set(refund.args) == {"order_id", "amount"}
    assert [refund.invoke(asked(call_id)).content for call_id in ("call_a", "call_b")] == ["refund 1"] * 2
    (row,) = ledger.calls()
    assert row["attempts"] == 1


@pytest.mark.usefixtures("in_workflow")
def test_a_guarded_function_made_a_tool_keeps_its_own_identity_and_is_charged_once(instrument, world, ledger):
    instrument(budgets=[Budget("few", Calls(1)), Budget("money", Money("20", "EUR"))])

    @langchain_tool
    @spanledger.tool(reserve=Money("10", "EUR"))
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        return world.refund(order_id)

    assert refund.invoke(asked("call_a")).content == "refund 1"
    ledger.top_up("few", Calls(1), by="test")
    assert refund.invoke(asked("call_b")).content == "refund 1"
    assert ledger.budget("money").spent == Money("10", "EUR")


@pytest.mark.usefixtures("in_workflow")
def test_two_workers_with_the_same_call_run_it_once(instrument, world, ledger):
    instrument(rules=[BY_ARGUMENTS])
    inside, go_on = threading.Event(), threading.Event()

    @langchain_tool
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        inside.set()
        assert go_on.wait(10)
        return world.refund(order_id)

    said = []

    def work(call_id: str) -> None:
        with workflow("w"):
            said.append(refund.invoke(asked(call_id)).content)

    workers = [threading.Thread(target=work, args=(call_id,)) for call_id in ("call_a", "call_b")]
    workers[0].start()
    assert inside.wait(10)
    workers[1].start()
    go_on.set()
    for worker in workers:
        worker.join()
    assert said == ["refund 1", "refund 1"]
