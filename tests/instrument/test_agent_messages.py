"""What agents are asked and answer, on the spans of their runs, where somebody asks for that."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("agents")
pytest.importorskip("pydantic_ai")
import agents_world
import pydantic_world
from agents import MaxTurnsExceeded, Runner
from agents.testing import ScriptedModel, assistant_message
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.function import FunctionModel

from spanledger import Rule
from spanledger.instrument.libraries import _langgraph_messages

LIBRARIES = ["openai_agents", "langgraph", "langchain", "pydantic_ai"]
CANARY = "4111-canary"
ANSWER = f"refunded {CANARY}, done"
ARGUMENTS = {"order_id": CANARY, "amount": 10}
HIDES = [Rule("refund", identity="none", redact=["order_id"])]
NAMES = ("input.messages", "output.messages", "system_instructions")

Run = Callable[[str], None]


def text(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": content}]}


# --- agents that refund once and then answer


def openai_agents(given: str, way: Callable[..., Any] = agents_world.run) -> None:
    from agents import function_tool

    @function_tool
    def refund(order_id: str, amount: int) -> str:
        """Refund."""
        return "refunded"

    model = ScriptedModel([[agents_world.asked(arguments=ARGUMENTS)], [assistant_message(ANSWER)]])
    way(agents_world.agent_of(refund, model=model, instructions="be kind"), given)


def openai_agents_streamed(given: str) -> None:
    openai_agents(given, agents_world.run_streamed)


def pydantic_ai(given: str) -> None:
    def refund(order_id: str, amount: int) -> str:
        return "refunded"

    def whole(messages: list[Any], _info: Any) -> ModelResponse:
        asked = [pydantic_world.asked(arguments=ARGUMENTS)]
        return ModelResponse(parts=[TextPart(ANSWER)] if len(messages) > 1 else asked)

    agent = pydantic_world.agent_of(refund, instructions="be kind")
    asyncio.run(agent.run(given, model=FunctionModel(whole)))


def graph() -> Any:
    call = {"type": "tool_call", "id": "call_a", "name": "refund", "args": ARGUMENTS}

    def asks(_state: MessagesState) -> MessagesState:
        return {"messages": [AIMessage("", tool_calls=[call])]}

    def answers(_state: MessagesState) -> MessagesState:
        return {"messages": [ToolMessage("refunded", tool_call_id="call_a"), AIMessage(ANSWER)]}

    made = StateGraph(MessagesState).add_node("asks", asks).add_node("answers", answers)
    return made.add_edge(START, "asks").add_edge("asks", "answers").compile(name="support")


def langgraph(given: str) -> None:
    graph().invoke({"messages": [SystemMessage("be kind"), HumanMessage(given)]})


def langgraph_awaiting(given: str) -> None:
    asyncio.run(graph().ainvoke({"messages": [("system", "be kind"), ("user", given)]}))


def langgraph_streamed(given: str) -> None:
    for _ in graph().stream(
        {"messages": [("system", "be kind"), {"role": "user", "content": given}]}, stream_mode=["updates", "custom"]
    ):
        pass


WAYS = [openai_agents, openai_agents_streamed, pydantic_ai, langgraph, langgraph_awaiting, langgraph_streamed]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def run(request: Any) -> Run:
    return request.param


def on_span(spans: Any) -> dict[str, Any]:
    """What the span of the run says."""
    (span,) = [one for one in spans.all() if one.name == "invoke_agent support"]
    found = {name: span.attributes.get(f"gen_ai.{name}") for name in NAMES}
    return {name: json.loads(told) for name, told in found.items() if told is not None}


def test_a_run_says_what_was_asked_and_answered(run, instrument, spans):
    instrument(capture_content="span_only")
    run("hi")
    seen = on_span(spans)
    assert seen["output.messages"] == [{**text("assistant", ANSWER), "finish_reason": "stop"}]
    if run.__name__.startswith("langgraph"):  # instructions are messages there
        assert seen["input.messages"] == [text("system", "be kind"), text("user", "hi")]
    else:
        assert seen["input.messages"] == [text("user", "hi")]
        assert seen["system_instructions"] == [{"type": "text", "content": "be kind"}]


@pytest.mark.parametrize("capture", ["no_content", "event_only"])
def test_nothing_of_it_is_on_the_span_where_nobody_asks_for_it_there(run, capture, instrument, spans):
    instrument(capture_content=capture)
    run("hi")
    assert on_span(spans) == {}


def test_what_a_tool_s_rule_redacts_is_masked_in_what_the_agent_says(run, instrument, spans):
    instrument(capture_content="span_and_event", rules=HIDES)
    run(f"refund {CANARY}")
    seen = on_span(spans)
    assert CANARY not in json.dumps(seen)
    assert seen["output.messages"][0]["role"] == "assistant"


def unseen_mode(mode: str | list[str], **more: Any) -> Run:
    return lambda given: [*graph().stream({"messages": [HumanMessage(given)]}, stream_mode=mode, **more)] and None


def left_early(given: str) -> None:
    streamed = graph().stream({"messages": [HumanMessage(given)]}, stream_mode="values")
    next(streamed)
    streamed.close()


def too_many_turns(given: str) -> None:
    from agents import function_tool

    @function_tool
    def refund(order_id: str, amount: int) -> str:
        """Refund."""
        return "refunded"

    model = ScriptedModel([[agents_world.asked(arguments=ARGUMENTS)]])
    with pytest.raises(MaxTurnsExceeded):
        asyncio.run(Runner.run(agents_world.agent_of(refund, model=model), given, max_turns=1))


def too_much(given: str) -> None:
    def asks(_state: dict[str, Any]) -> dict[str, Any]:
        call = {"type": "tool_call", "id": "call_a", "name": "refund", "args": ARGUMENTS}
        return {"texts": ["text"] * 20_000, "messages": [AIMessage("", tool_calls=[call])]}

    made = StateGraph(dict).add_node("asks", asks).add_edge(START, "asks").compile(name="support")
    made.invoke({"messages": [HumanMessage(given)]})


NOT_WHOLE = {
    "custom": unseen_mode("custom"),
    "checkpoints": unseen_mode("checkpoints"),
    "pieces": unseen_mode(["messages", "custom"]),
    "other keys": unseen_mode("values", output_keys=[]),
    "left early": left_early,
    "too many turns": too_many_turns,
    "too much": too_much,
}


@pytest.mark.parametrize("run", NOT_WHOLE.values(), ids=NOT_WHOLE)
@pytest.mark.parametrize("rules", [[], HIDES], ids=["nothing redacted", "redacted"])
def test_of_a_run_of_which_not_all_was_seen_nothing_is_shown_where_anything_is_redacted(run, rules, instrument, spans):
    instrument(capture_content="span_only", rules=rules)
    run(f"refund {CANARY}")
    assert (CANARY in json.dumps(on_span(spans))) is not bool(rules)


@pytest.mark.parametrize("broken", ["_read", "_messages_in"])
def test_where_a_run_cannot_be_read_nothing_is_shown_where_anything_is_redacted(broken, instrument, spans, monkeypatch):
    instrument(capture_content="span_only", rules=HIDES)
    monkeypatch.setattr(_langgraph_messages, broken, lambda item: 1 / 0)
    langgraph(f"refund {CANARY}")
    assert on_span(spans) == {}


@pytest.mark.parametrize(
    "said",
    [
        {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "type": "function",
         "function": {"name": "refund", "arguments": json.dumps(ARGUMENTS)}}]},
        AIMessageChunk("", tool_calls=[{"type": "tool_call", "id": "a", "name": "refund", "args": ARGUMENTS}]),
    ],
    ids=["mapping", "chunk"],
)  # fmt: skip
def test_however_a_node_says_it_what_is_redacted_is_masked(said, instrument, spans):
    instrument(capture_content="span_only", rules=HIDES)
    made = StateGraph(MessagesState).add_node("n", lambda _state: {"messages": [said]})
    for _ in (
        made.add_edge(START, "n")
        .compile(name="support")
        .stream({"messages": [HumanMessage(f"refund {CANARY}")]}, stream_mode="updates")
    ):
        pass
    assert on_span(spans)["input.messages"] == [text("user", "[redacted]")]


def test_numbers_in_a_state_are_not_looked_at(instrument, spans):
    instrument(capture_content="span_only", rules=HIDES)

    def embeds(_state: dict[str, Any]) -> dict[str, Any]:
        return {"vectors": [[0.5] * 1536] * 2000, "messages": [AIMessage("done")]}

    made = StateGraph(dict).add_node("n", embeds).add_edge(START, "n").compile(name="support")
    made.invoke({"messages": [HumanMessage("hi")]})
    assert on_span(spans)["output.messages"] == [{**text("assistant", "done"), "finish_reason": "stop"}]


def test_a_run_that_fails_says_what_was_asked(instrument, spans):
    instrument(capture_content="span_only")

    def fails(_state: MessagesState) -> MessagesState:
        raise ValueError

    made = StateGraph(MessagesState).add_node("fails", fails).add_edge(START, "fails").compile(name="support")
    with pytest.raises(ValueError):
        made.invoke({"messages": [HumanMessage("hi")]})
    assert on_span(spans) == {"input.messages": [text("user", "hi")]}


def test_what_is_no_message_costs_a_graph_nothing(instrument, spans):
    instrument(capture_content="span_only")
    made = StateGraph(dict).add_node("n", lambda _state: {"n": 1}).add_edge(START, "n").compile(name="support")
    assert made.invoke({"messages": 7}) is not None
    assert on_span(spans) == {}
