"""A person says that a call shall not run."""

from __future__ import annotations

import asyncio
import pickle

import pytest

from spanledger import AsyncLedger, Budget, Calls, Config, Ledger, Rule, ToolCall
from spanledger.errors import CallCancelled

REFUND = ToolCall("refund", {"order_id": "o-1"}, workflow_id="order-1")


def never() -> None:
    pytest.fail("it ran")


def test_a_cancelled_call_is_refused_with_who_and_why_until_somebody_reopens_it(ledger: Ledger) -> None:
    begun = ledger.begin(REFUND)
    ledger.fail(begun, ValueError("no"))

    assert ledger.cancel(begun.key, by="ops@example.com", reason="the customer changed their mind")
    with pytest.raises(CallCancelled, match=r"ops@example.com cancelled it: the customer changed their mind") as caught:
        ledger.run(REFUND, never)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.by, again.reason, again.key) == (
        "ops@example.com",
        "the customer changed their mind",
        begun.key,
    )
    assert ledger.history(begun.key)[-1]["by_name"] == "ops@example.com"

    assert ledger.resolve(begun.key, by="ops@example.com", outcome="retry")
    assert ledger.run(REFUND, lambda: "paid") == "paid"


def test_what_runs_or_has_succeeded_cannot_be_cancelled(ledger: Ledger) -> None:
    begun = ledger.begin(REFUND)
    assert not ledger.cancel(begun.key, by="ops")
    ledger.settle(begun, "paid")
    assert not ledger.cancel(begun.key, by="ops")
    assert not ledger.cancel("00" * 32, by="ops")
    assert ledger.run(REFUND, never) == "paid"


def test_an_unknown_outcome_that_is_cancelled_gives_back_what_it_held(ledger_with) -> None:
    ledger = ledger_with(budgets=(Budget("b", Calls(5)),))
    begun = ledger.begin(REFUND)
    ledger.fail(begun, TimeoutError())
    assert ledger.budget("b").held == Calls(1)

    assert ledger.cancel(begun.key, by="ops")
    assert ledger.cancel(begun.key, by="ops"), "twice is as good as once"

    assert (ledger.budget("b").held, ledger.budget("b").spent) == (Calls(0), Calls(0))
    assert len([event for event in ledger.history(begun.key) if event["event"] == "cancelled"]) == 1


def test_a_failed_call_that_holds_nothing_is_cancelled_beside_its_budget(ledger_with) -> None:
    ledger = ledger_with(budgets=(Budget("b", Calls(5)),))
    begun = ledger.begin(REFUND)
    ledger.fail(begun, ValueError("no"))

    assert ledger.cancel(begun.key, by="ops")

    assert (ledger.budget("b").held, ledger.budget("b").spent) == (Calls(0), Calls(0))


def test_a_worker_that_comes_back_after_all_is_believed_and_its_money_is_spent(ledger_with) -> None:
    ledger = ledger_with(budgets=(Budget("b", Calls(5)),))
    begun = ledger.begin(REFUND)
    ledger.fail(begun, TimeoutError())
    ledger.cancel(begun.key, by="ops")

    assert ledger.settle(begun, "paid after all")

    assert ledger.run(REFUND, never) == "paid after all"
    assert (ledger.budget("b").held, ledger.budget("b").spent) == (Calls(0), Calls(1))


def test_an_awaited_call_is_cancelled_alike(dsn: str) -> None:
    config = Config(dsn=dsn, rules=(Rule("refund", on_failure="retry"),))

    async def main() -> None:
        async with AsyncLedger(config=config) as ledger:
            begun = await ledger.begin(REFUND)
            await ledger.fail(begun, ValueError("no"))
            assert await ledger.cancel(begun.key, by="ops")
            with pytest.raises(CallCancelled):
                await ledger.run(REFUND, never)

    asyncio.run(main())
