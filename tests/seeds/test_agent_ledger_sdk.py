"""agent-ledger-sdk: a budget that is asked after the money is spent, and reports that change what they report on."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from opentelemetry.trace import StatusCode
from tests.seeds.parts import REFUND, never

from spanledger import Budget, Calls, Ledger, Money, Rule, Tokens, current_call, errors, tool, workflow
from spanledger.testing import ModelServer, Say

ASK = {"model": "gpt-5", "max_completion_tokens": 100, "messages": [{"role": "user", "content": "hello"}]}


def ask_at_once(url: str, count: int) -> int:
    """Ask the model from many threads at once; return how many were let through."""
    barrier = threading.Barrier(count)

    def ask(_: int) -> int:
        with openai.OpenAI(base_url=url, api_key="offline", max_retries=0) as client:
            barrier.wait(30)
            try:
                client.chat.completions.create(**ASK)
            except errors.BudgetExceeded:
                return 0
        return 1

    with ThreadPoolExecutor(count) as pool:
        return sum(pool.map(ask, range(count)))


# LS-D1: the guardrail comes after the fact


def test_of_many_agents_that_ask_a_model_at_once_no_more_are_let_through_than_the_budget_has(instrument, ledger, model):
    instrument(budgets=[Budget("b", Calls(3), operations=("chat",))])
    assert ask_at_once(model.url, 8) == 3
    assert len(model.requests) == 3, "nothing was sent that is not paid for"
    assert ledger.budget("b").spent == Calls(3)


@pytest.mark.parametrize("admitted", [0, 1, 3])
def test_of_many_agents_that_ask_a_model_at_once_tokens_are_not_spent_many_times_over(
    admitted, instrument, ledger, model, spans
):
    instrument(budgets=[Budget("alone", Tokens(10_000))])
    assert ask_at_once(model.url, 1) == 1
    amounts = spans.one("chat gpt-5").attributes["spanledger.reserved"]
    reserved = next(int(amount.split()[0]) for amount in amounts if amount.endswith(" tokens"))
    all_have_asked = threading.Event()

    def script(request: dict) -> Say:
        all_have_asked.wait(30)
        return Say("one two three")

    with ModelServer(script) as slow, ThreadPoolExecutor(1) as pool:
        instrument(budgets=[Budget("b", Tokens((admitted + 1) * reserved - 1))])
        asking = pool.submit(ask_at_once, slow.url, 8)
        while len(spans.all("chat gpt-5")) < 1 + 8 - admitted:
            time.sleep(0.02)
        all_have_asked.set()
        assert asking.result(30) == admitted
    assert len(slow.requests) == admitted, "nothing was sent that there were no tokens for"
    assert ledger.budget("b").held == Tokens(0)


# LS-D2: what the report says becomes what happened


def test_a_tool_that_cost_more_than_was_left_gives_its_result_and_the_next_one_does_not_run(instrument, ledger, spans):
    instrument(budgets=[Budget("money", Money("10", "EUR"))])
    ran = []

    @tool
    def refund(order_id: str) -> object:
        ran.append(order_id)
        current_call().charge(Money("25", "EUR"))
        return object()  # which no JSON can hold

    with workflow("w"):
        assert type(refund("o-1")) is object
        with pytest.raises(errors.BudgetExceeded):
            refund("o-2")
        with pytest.raises(errors.ResultNotKept):
            refund("o-1")
    assert ran == ["o-1"]
    assert {row["state"] for row in ledger.calls()} == {"succeeded", "refused"}
    first = spans.all("execute_tool refund")[0]
    assert (first.status.status_code, first.attributes["spanledger.call.outcome"]) == (StatusCode.UNSET, "succeeded")
    assert ledger.budget("money").spent == Money("25", "EUR"), "an overrun is booked, not hidden"


# LS-D3: a session that ends twice, or never


@pytest.mark.parametrize("error", [KeyboardInterrupt(), asyncio.CancelledError(), SystemExit(1)], ids=repr)
def test_a_workflow_that_is_interrupted_ends_once_and_says_so(error: BaseException, spans) -> None:
    with pytest.raises(type(error)), workflow("w"):
        raise error
    span = spans.one("invoke_agent")
    assert span.end_time is not None
    assert span.status.status_code is StatusCode.UNSET, "whoever stops a program makes no error of it"
    assert span.attributes["error.type"].endswith(type(error).__name__)


# LS-D4: errors of the network come raw, and a ledger that is down takes the agent down


def test_a_ledger_that_is_down_is_one_kind_of_error_and_only_for_what_it_guards(instrument, caplog) -> None:
    caplog.set_level(logging.CRITICAL, "spanledger")
    instrument(dsn="host=/nowhere", ledger_timeout_s=0.2, rules=[Rule("lookup", on_ledger_down="continue")])

    @tool
    def refund(order_id: str) -> None:
        never()

    @tool
    def lookup(order_id: str) -> str:
        return order_id

    with workflow("w"):
        with pytest.raises(errors.LedgerUnavailable) as caught:
            refund("o-1")
        assert isinstance(caught.value, errors.SpanledgerError)
        assert lookup("o-1") == "o-1"


# LS-D6: figures that are not there


def test_a_refusal_has_its_figures(ledger_with) -> None:
    ledger: Ledger = ledger_with(budgets=[Budget("b", Calls(0))])
    with pytest.raises(errors.BudgetExceeded) as caught:
        ledger.run(REFUND, never)
    error = caught.value
    figures = {name: getattr(error, name) for name in ("limit", "spent", "held", "remaining", "requested")}
    assert figures == {
        "limit": Calls(0),
        "spent": Calls(0),
        "held": Calls(0),
        "remaining": Calls(0),
        "requested": Calls(1),
    }
    assert (error.budget, error.unit) == ("b", "calls")
