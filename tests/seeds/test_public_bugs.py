"""What users report of gateways and frameworks, above all of the reservations of LiteLLM, as far as it is ours."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from tests.ledger.workers import together
from tests.seeds.parts import REFUND, never, spend

from spanledger import AsyncLedger, Budget, Calls, Config, Ledger, Money, Tokens, ToolCall, errors
from spanledger.testing import Fail, ModelServer, Say

ASK = {"model": "gpt-5", "max_completion_tokens": 100, "messages": [{"role": "user", "content": "hello"}]}


# over-spending


def test_processes_that_come_up_at_once_on_a_new_budget_spend_it_once(dsn: str) -> None:
    assert sum(together(8, spend, dsn, 3)) == 5
    with Ledger(dsn) as ledger:
        balance = ledger.budget("refunds")
    assert (balance.spent, balance.held) == (Money("5.00", "EUR"), Money("0", "EUR"))


def test_a_budget_remembers_what_was_spent_before_the_restart(dsn: str) -> None:
    config = Config(dsn=dsn, budgets=[Budget("b", Calls(2))])
    for n in range(2):
        with Ledger(config=config) as ledger:
            ledger.run(ToolCall("refund", {"n": n}, workflow_id="w"), lambda: "done")
    with Ledger(config=config) as ledger, pytest.raises(errors.BudgetExceeded):
        ledger.run(ToolCall("refund", {"n": 3}, workflow_id="w"), never)


def admitted_at_once(ledger: Ledger, calls: list[ToolCall]) -> Counter[str]:
    """Begin all calls from threads at once; return how often each actor or workflow was let through."""
    barrier = threading.Barrier(len(calls))

    def begin(call: ToolCall) -> str | None:
        barrier.wait(30)
        return (call.actor or call.workflow_id) if ledger.begin(call).verdict.value == "run" else None

    with ThreadPoolExecutor(len(calls)) as pool:
        return Counter(name for name in pool.map(begin, calls) if name)


def test_a_budget_per_user_is_each_user_s_own_from_the_first_requests_on(ledger_with) -> None:
    ledger = ledger_with(budgets=[Budget("b", Calls(2), per=("actor",))])
    calls = [ToolCall("refund", {"n": n}, workflow_id="w", actor=f"u_{n % 2}") for n in range(12)]
    assert admitted_at_once(ledger, calls) == {"u_0": 2, "u_1": 2}


def test_a_cap_of_one_run_is_shared_by_all_who_work_on_it_and_by_no_other_run(ledger_with) -> None:
    ledger = ledger_with(budgets=[Budget("b", Calls(3), per=("workflow",))])
    calls = [ToolCall("refund", {"n": n}, workflow_id=f"run-{n % 2}") for n in range(12)]
    assert admitted_at_once(ledger, calls) == {"run-0": 3, "run-1": 3}


# reservations that leak


def test_a_task_cancelled_at_any_moment_leaves_nothing_held_that_nobody_knows_of(dsn: str) -> None:
    moments = 40

    async def main() -> tuple[Counter, Calls, Calls]:
        async with AsyncLedger(config=Config(dsn=dsn, budgets=[Budget("b", Calls(1000))])) as ledger:
            await ledger.calls()  # the connection is there

            async def handler() -> str:
                await asyncio.sleep(0)
                return "done"

            for moment in range(moments):
                task = asyncio.create_task(ledger.run(ToolCall("refund", {"n": moment}, workflow_id="w"), handler))
                for _ in range(moment):
                    await asyncio.sleep(0 if moment % 2 else 0.0002)
                task.cancel()
                await asyncio.wait([task])
            states = Counter(row["state"] for row in await ledger.calls())
            balance = await ledger.budget("b")
            return states, balance.spent, balance.held

    states, spent, held = asyncio.run(main())
    assert states.keys() <= {"succeeded", "released", "unknown"}, "none is left in flight"
    assert (spent, held) == (Calls(states["succeeded"]), Calls(states["unknown"]))


@pytest.fixture
def hanging():
    """A model that does not answer until the test is over, and how to wait until it has been asked."""
    asked, release = threading.Event(), threading.Event()

    def script(request: dict) -> Say:
        asked.set()
        release.wait(30)
        return Say("one two three")

    with ModelServer(script) as model:
        yield model, asked
        release.set()


def test_a_model_call_that_is_cancelled_while_the_model_thinks_holds_nothing(
    instrument, ledger, hanging, spans
) -> None:
    model, asked = hanging
    instrument(budgets=[Budget("b", Calls(9)), Budget("t", Tokens(1000))])

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=model.url, api_key="offline", max_retries=0) as client:
            task = asyncio.create_task(client.chat.completions.create(**ASK))
            assert await asyncio.to_thread(asked.wait, 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert (ledger.budget("b").held, ledger.budget("t").held) == (Calls(0), Tokens(0))
    assert spans.one("chat gpt-5").attributes["error.type"] == "asyncio.exceptions.CancelledError"


def test_an_awaited_stream_cancelled_in_the_middle_holds_nothing(instrument, ledger, model) -> None:
    instrument(budgets=[Budget("b", Calls(9))])

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=model.url, api_key="offline", max_retries=0) as client:
            begun = asyncio.Event()

            async def read() -> None:
                stream = await client.chat.completions.create(**ASK, stream=True)
                async for _ in stream:
                    begun.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(read())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
            gc.collect()
            await asyncio.sleep(0)

    asyncio.run(main())
    balance = ledger.budget("b")
    assert (balance.held, balance.spent) == (Calls(0), Calls(1))


def test_an_error_before_the_first_chunk_holds_nothing(instrument, ledger) -> None:
    instrument(budgets=[Budget("b", Calls(9))])
    with (
        ModelServer(lambda request: Fail(500, "broken")) as model,
        openai.OpenAI(base_url=model.url, api_key="offline", max_retries=0) as client,
        pytest.raises(openai.InternalServerError),
    ):
        client.chat.completions.create(**ASK, stream=True)
    balance = ledger.budget("b")
    assert (balance.held, balance.spent) == (Calls(0), Calls(0))


# figures that are not what was spent


def test_what_is_enforced_is_the_sum_of_what_was_really_spent(ledger_with) -> None:
    ledger = ledger_with(budgets=[Budget("b", Money("100", "EUR"))])

    def fail() -> None:
        raise ValueError

    for n in range(5):
        call = ToolCall("refund", {"n": n}, workflow_id="w", cost=Money("3", "EUR"))
        with pytest.raises(ValueError):
            ledger.run(call, fail)
        for _ in range(3):
            ledger.run(call, lambda: "done")
    ledger.settle(ledger.begin(REFUND), None, cost=Money("0.50", "EUR"))
    balance = ledger.budget("b")
    assert (balance.spent, balance.held) == (Money("15.50", "EUR"), Money("0", "EUR"))
