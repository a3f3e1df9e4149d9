"""OpenAI's tool runner: it makes an error of its own of whatever stops a run, but of a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from spanledger import Budget, Calls, errors, workflow
from spanledger.testing import CallTool, ModelServer, Say

runners = pytest.importorskip("openai.lib.responses_tool_runner")

LIBRARIES = ["openai"]
ASKED = {"model": "gpt-5", "input": "refund it"}
TOOL = {
    "type": "function",
    "name": "refund",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"order_id": {"type": "string"}},
        "required": ["order_id"],
        "additionalProperties": False,
    },
}


@pytest.fixture
def options() -> Iterator[dict[str, Any]]:
    said = [CallTool("refund", {"order_id": "o-1"}, "call_a"), Say("done")]
    with ModelServer(lambda _request: said.pop(0)) as model:
        yield {"base_url": model.url, "api_key": "offline", "max_retries": 0}


def blocking(options: dict[str, Any], do: Callable[..., str]) -> None:
    with openai.OpenAI(**options) as client:
        runners.ResponsesToolRunner(functions=[runners.RegisteredFunction(TOOL, do)]).run(client, ASKED)


def awaiting(options: dict[str, Any], do: Callable[..., str]) -> None:
    async def execute(arguments: Any) -> str:
        return do(arguments)

    async def main() -> None:
        async with openai.AsyncOpenAI(**options) as client:
            functions = [runners.AsyncRegisteredFunction(TOOL, execute)]
            await runners.AsyncResponsesToolRunner(functions=functions).run(client, ASKED)

    asyncio.run(main())


def fails(_arguments: Any) -> str:
    raise ValueError("the bank is closed")


@pytest.mark.parametrize("way", [blocking, awaiting])
def test_a_refusal_reaches_whoever_called_the_runner_as_what_it_is(way, options, instrument):
    instrument(budgets=[Budget("none", Calls(0), match="refund")])
    with workflow("w"), pytest.raises(errors.BudgetExceeded) as raised:
        way(options, fails)
    assert raised.value.budget == "none"


@pytest.mark.parametrize("way", [blocking, awaiting])
def test_what_a_function_raises_stays_what_the_runner_makes_of_it(way, options, instrument, ledger):
    instrument()
    with workflow("w"), pytest.raises(runners.ToolRunnerError) as raised:
        way(options, fails)
    assert raised.value.attempted_call_ids == ("call_a",)
    (row,) = [row for row in ledger.calls() if row["tool"] == "refund"]
    assert (row["state"], row["error"]["type"]) == ("failed", "builtins.ValueError")
