"""tracengent: traces that do not tell what happened, and money that is no number of cents."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from opentelemetry.trace import StatusCode
from tests.seeds.parts import REFUND, never

from spanledger import Budget, Config, Ledger, Money, ToolCall, current_workflow, errors, tool, workflow

# TR-D3: asynchronous tools are recorded as done in no time


@pytest.mark.usefixtures("guarded")
def test_the_span_of_an_asynchronous_tool_lasts_as_long_and_fails_as_it_did(spans) -> None:
    @tool
    async def refund(order_id: str) -> str:
        await asyncio.sleep(0.05)
        raise ValueError("card expired")

    async def main() -> None:
        await refund("o-1")

    with pytest.raises(ValueError):
        asyncio.run(main())
    span = spans.one("execute_tool refund")
    assert span.end_time - span.start_time >= 0.05e9
    assert (span.status.status_code, span.attributes["spanledger.call.outcome"]) == (StatusCode.ERROR, "failed")


def test_a_loop_goes_on_while_a_call_waits_for_the_ledger(instrument, sql) -> None:
    instrument()
    ticks = []

    @tool
    async def refund(order_id: str) -> str:
        return "done"

    async def main() -> str:
        with workflow("w"):
            await refund("o-1")
            sql.execute("begin")
            sql.execute("lock table spanledger.call in access exclusive mode")
            waiting = asyncio.create_task(refund("o-2"))
            until_s = time.monotonic() + 0.2
            while time.monotonic() < until_s:
                ticks.append(await asyncio.sleep(0.001))
            assert not waiting.done()
            sql.execute("rollback")
            return await waiting

    assert asyncio.run(main()) == "done"
    assert len(ticks) > 20


# TR-D4: traces that overlap


def test_of_workflows_that_overlap_none_stays_around_after_its_end(spans) -> None:
    first, second = workflow("first").__enter__(), workflow("second").__enter__()
    first.__exit__(None, None, None)
    assert current_workflow() is second
    second.__exit__(None, None, None)
    assert current_workflow() is None


# TR-D5: the tree is upside down


def test_of_calls_inside_calls_in_many_threads_each_span_is_under_the_one_that_made_it(instrument, spans) -> None:
    instrument()

    @tool
    def inner(n: int, of: str) -> int:
        return n

    @tool
    def outer(n: int, of: str) -> int:
        return inner(n, of)

    def run(name: str) -> None:
        with workflow(name, agent=name):
            for n in range(4):
                outer(n, name)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, "abcd"))
    ids = {span.context.span_id: span for span in spans.all()}
    inners, outers = spans.all("execute_tool inner"), spans.all("execute_tool outer")
    assert (len(inners), len(outers)) == (16, 16)
    assert {ids[span.parent.span_id].name for span in inners} == {"execute_tool outer"}
    assert len({span.parent.span_id for span in inners}) == 16, "each has a parent of its own"
    assert sorted(ids[span.parent.span_id].name for span in outers) == sorted(f"invoke_agent {n}" for n in "abcd" * 4)


# TR-D7: what is recorded is not what was asked


def test_what_is_recorded_is_what_the_call_was_begun_with(ledger: Ledger) -> None:
    arguments = {"order_id": "o-1", "items": [1]}
    call = ToolCall("refund", arguments, workflow_id="w")
    key = ledger.key(call)

    def handler() -> str:
        arguments["order_id"] = "changed"
        arguments["items"].append(2)
        return "done"

    ledger.run(call, handler)
    assert json.loads(ledger.get(key)["arguments"]) == {"order_id": "o-1", "items": [1]}
    assert ledger.run(ToolCall("refund", {"order_id": "o-1", "items": [1]}, workflow_id="w"), never) == "done"


def test_arguments_that_hold_themselves_refuse_their_own_call_and_no_other(ledger: Ledger) -> None:
    circular: dict = {}
    circular["self"] = circular
    with pytest.raises(errors.Undescribable):
        ledger.run(ToolCall("refund", circular, workflow_id="w"), never)
    assert ledger.run(REFUND, lambda: "done") == "done"


# TR-D8: one bad answer disables everything until the restart


def test_after_credentials_that_did_not_work_once_the_next_call_asks_again(dsn: str, tmp_path: Path) -> None:
    rotated = tmp_path / "dsn"
    rotated.write_text(f"{dsn} user=nobody_of_that_name")
    with Ledger(rotated.read_text, Config(ledger_timeout_s=0.5)) as ledger:
        with pytest.raises(errors.LedgerUnavailable):
            ledger.run(REFUND, never)
        rotated.write_text(dsn)
        assert ledger.run(REFUND, lambda: "done") == "done"


# TR-D10: money through floats


def test_money_of_many_digits_comes_back_to_the_last_one_or_is_refused(ledger_with) -> None:
    amount = Money("123456789.123456", "EUR")
    ledger = ledger_with(budgets=[Budget("b", Money("900000000", "EUR"))])
    ledger.run(ToolCall("pay", workflow_id="w", cost=amount), lambda: None)
    assert ledger.budget("b").spent == amount
    with pytest.raises(errors.ConfigError):
        Money("12345678901234.56789", "EUR")


# TR-D13: a retried report is a second report


def test_an_outcome_that_is_reported_from_many_threads_at_once_is_booked_once(ledger_with) -> None:
    ledger = ledger_with(budgets=[Budget("b", Money("9", "EUR"))])
    begun = ledger.begin(ToolCall("pay", workflow_id="w", cost=Money("1", "EUR")))
    barrier = threading.Barrier(8)

    def settle(_: int) -> bool:
        barrier.wait(30)
        return ledger.settle(begun, "paid")

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(settle, range(8)))
    assert ledger.budget("b").spent == Money("1", "EUR")
    assert ledger.history(begun.key) == []
