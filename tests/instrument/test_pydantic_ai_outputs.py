"""Functions of Pydantic AI that make the output of a run: they do what tools do, and are guarded as tools."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, TextOutput, ToolOutput
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from spanledger import Budget, Calls, Rule, errors, workflow

LIBRARIES = ["pydantic_ai"]
BY_ARGUMENTS = Rule("refund", identity="arguments")


class Receipt(BaseModel):
    order_id: str
    number: int


@pytest.fixture
def refunded() -> list[str]:
    return []


@pytest.fixture
def refund(refunded: list[str]) -> Callable[..., Any]:
    def refund(order_id: str) -> Receipt:
        """Refund an order."""
        refunded.append(order_id)
        return Receipt(order_id=order_id, number=len(refunded))

    return refund


def answer(_messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Ask for the output's tool, or say the order."""
    if not info.output_tools:
        return ModelResponse([TextPart("o-1")])
    return ModelResponse([ToolCallPart(info.output_tools[0].name, {"order_id": "o-1"})])


async def pieces(_messages: list[ModelMessage], info: AgentInfo) -> Any:
    name = info.output_tools[0].name
    for text in ('{"order_id": ', '"o-', '1"}'):
        yield {0: DeltaToolCall(name=name, json_args=text, tool_call_id="call_a")}
        name = None


SHAPES = {"plain": lambda f: f, "named": lambda f: ToolOutput(f, name="finish"), "text": TextOutput}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_function_that_makes_the_output_runs_once_and_gives_the_same(
    shape, instrument, refund, refunded, ledger, spans
):
    instrument(rules=[BY_ARGUMENTS])
    agent = Agent(FunctionModel(answer), output_type=SHAPES[shape](refund))
    with workflow("w"):
        first, second = (asyncio.run(agent.run("go")).output for _ in range(2))
    assert first == second == Receipt(order_id="o-1", number=1)
    assert refunded == ["o-1"]
    assert [(row["tool"], row["state"]) for row in ledger.calls()] == [("refund", "succeeded")]
    assert [s.attributes["spanledger.verdict"] for s in spans.all("execute_tool refund")] == ["run", "replay"]


def test_what_is_made_of_an_answer_that_is_still_being_streamed_is_no_call(instrument, refund, ledger):
    instrument(rules=[BY_ARGUMENTS])
    agent = Agent(FunctionModel(stream_function=pieces), output_type=refund)

    async def main() -> list[Any]:
        async with agent.run_stream("go") as run:
            return [output async for output in run.stream_output(debounce_by=None)]

    with workflow("w"):
        assert asyncio.run(main())[-1].order_id == "o-1"
    assert [row["attempts"] for row in ledger.calls()] == [1]


def test_a_refusal_to_make_the_output_stops_the_run(instrument, refund, refunded):
    instrument(budgets=[Budget("none", Calls(0), match="refund")])
    agent = Agent(FunctionModel(answer), output_type=refund)
    with workflow("w"), pytest.raises(errors.BudgetExceeded):
        asyncio.run(agent.run("go"))
    assert refunded == []


def test_a_function_that_has_the_model_answer_again_has_made_no_output(instrument, ledger):
    instrument(rules=[BY_ARGUMENTS])
    tries = []

    def refund(order_id: str) -> str:
        """Refund an order."""
        tries.append(order_id)
        if len(tries) == 1:
            raise ModelRetry("once more")
        return "done"

    with workflow("w"):
        assert asyncio.run(Agent(FunctionModel(answer), output_type=refund).run("go")).output == "done"
    assert [(row["state"], row["attempts"]) for row in ledger.calls()] == [("succeeded", 1)]
