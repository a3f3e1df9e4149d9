"""OpenAI's runner of decisions: the functions that a model chooses among are guarded, and a refusal stops the run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from spanledger import Budget, Calls, Rule, current_call, errors, workflow
from spanledger.testing._http import LoopbackServer, Reply, Request, json_reply

runners = pytest.importorskip("openai.lib.decisions_tool_runner")

LIBRARIES = ["openai"]
ASKED = {"model": "gpt-6-luna", "input": "refund it"}
TOLD = "Refund order o-1"
USED = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 15,
}


class Server(LoopbackServer):
    """A model that has the order refunded twice, and then is done."""

    left = ("refund", "refund", "done")

    def answer(self, request: Request) -> Reply:
        choice, *left = self.left
        self.left = tuple(left)
        answer = {"type": "choice", "name": "next_action", "choice": choice, "confidence": 1.0, "probabilities": []}
        return json_reply(200, {"answers": [answer], "model": "gpt-6-luna", "usage": USED})


@pytest.fixture
def options() -> Iterator[dict[str, Any]]:
    with Server() as model:
        yield {"base_url": model.url, "api_key": "offline", "max_retries": 0}


def candidates(execute: Callable[..., Any]) -> list[dict[str, Any]]:
    return [
        {"id": "refund", "description": TOLD, "execute": execute},
        {"id": "done", "description": "Nothing is left to do", "done": True},
    ]


def blocking(options: dict[str, Any], do: Callable[[], Any]) -> Any:
    with openai.OpenAI(**options) as client:
        offered = candidates(lambda cancelled: do() if cancelled is None else None)
        runner = runners.DecisionsToolRunner(observe=lambda: "open", candidates=lambda _seen: offered)
        return runner.run(client, ASKED)


def awaiting(options: dict[str, Any], do: Callable[[], Any]) -> Any:
    async def execute(_order_id: str) -> Any:
        await asyncio.sleep(0)
        return do()

    async def observe() -> str:
        return "open"

    async def offered(_seen: Any) -> Any:
        # What it gives is awaited, though it is no coroutine function.
        return candidates(lambda: execute("o-1"))

    async def main() -> Any:
        async with openai.AsyncOpenAI(**options) as client:
            runner = runners.AsyncDecisionsToolRunner(observe=observe, candidates=offered)
            return await runner.run(client, params=ASKED)

    return asyncio.run(main())


WAYS = pytest.mark.parametrize("way", [blocking, awaiting])


@WAYS
def test_what_a_model_chooses_is_a_call_and_runs_once_where_a_rule_says_so(way, options, instrument, ledger, spans):
    instrument(rules=[Rule("refund", identity="arguments")])
    done: list[Any] = []
    with workflow("w"):
        result = way(options, lambda: done.append(current_call().key))
    assert (result["status"], result["completed_candidate_ids"]) == ("unverified", ["refund", "refund"])
    (row,) = [row for row in ledger.calls() if row["tool"] == "refund"]
    assert done == [row["key"]]
    assert (row["state"], row["attempts"], json.loads(row["arguments"])) == ("succeeded", 1, {"description": TOLD})
    verdicts = [span.attributes["spanledger.verdict"] for span in spans.all("execute_tool refund")]
    assert verdicts == ["run", "replay"]


@WAYS
def test_a_refusal_stops_the_run_as_what_it_is(way, options, instrument):
    instrument(budgets=[Budget("one", Calls(1), match="refund")])
    done: list[None] = []
    with workflow("w"), pytest.raises(errors.BudgetExceeded) as raised:
        way(options, lambda: done.append(None))
    assert (raised.value.budget, done) == ("one", [None])


def fails() -> None:
    raise ValueError("the bank is closed")


@WAYS
def test_what_a_function_raises_stays_what_the_runner_makes_of_it(way, options, instrument, ledger):
    instrument()
    with workflow("w"), pytest.raises(runners.DecisionsToolRunnerError) as raised:
        way(options, fails)
    assert (raised.value.reason, raised.value.attempted_candidate_ids) == ("failed", ("refund",))
    (row,) = [row for row in ledger.calls() if row["tool"] == "refund"]
    assert (row["state"], row["error"]["type"]) == ("failed", "builtins.ValueError")


def test_candidates_that_are_none_are_refused_by_the_runner(options, instrument):
    instrument(rules=[Rule("refund")])
    with openai.OpenAI(**options) as client:
        for wrong in (("refund",), ["refund"], [{"id": "refund"}]):
            runner = runners.DecisionsToolRunner(observe=lambda: "open", candidates=lambda _seen, wrong=wrong: wrong)
            with pytest.raises(runners.DecisionsToolRunnerError) as raised:
                runner.run(client, ASKED)
            assert raised.value.reason == "invalid_candidates"
