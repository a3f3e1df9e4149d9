"""What becomes of calls by hand is in the decision trace, as it is of tools; what `begin` writes is not there twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from spanledger import AsyncLedger, Budget, Calls, Config, Ledger, Rule, ToolCall, errors

REFUND = ToolCall("refund", {"order_id": "o-1"}, workflow_id="order-1", agent="support", actor="u_42")


def blocking(config: Config, calls: list[tuple[ToolCall, Callable[[], Any]]]) -> None:
    with Ledger(config=config) as ledger:
        for call, handler in calls:
            with contextlib.suppress(errors.SpanledgerError, ValueError):
                ledger.run(call, handler)


def awaiting(config: Config, calls: list[tuple[ToolCall, Callable[[], Any]]]) -> None:
    async def main() -> None:
        async with AsyncLedger(config=config) as ledger:
            for call, handler in calls:
                with contextlib.suppress(errors.SpanledgerError, ValueError):
                    await ledger.run(call, handler)

    asyncio.run(main())


def fails() -> None:
    raise ValueError("no")


either = pytest.mark.parametrize("use", [blocking, awaiting])


def told(ledger: Ledger) -> list[dict[str, Any]]:
    return [row for row in ledger.timeline("order-1") if row["source"] == "trail"]


@either
def test_a_replay_is_told_with_whose_it_is(use, dsn, ledger):
    use(Config(dsn=dsn), [(REFUND, lambda: "done"), (REFUND, lambda: "done")])

    (replay,) = told(ledger)
    assert (replay["what"], replay["agent"], replay["actor"]) == ("replay", "support", "u_42")
    assert replay["detail"]["attempt"] == 1
    assert replay["key"] == ledger.key(REFUND)


@either
def test_a_refusal_that_begin_does_not_write_is_told(use, dsn, ledger):
    rule = Rule("refund", on_failure="replay")
    use(Config(dsn=dsn, rules=[rule]), [(REFUND, fails), (REFUND, fails)])

    (refused,) = told(ledger)
    assert refused["what"] == "refused"
    assert (refused["detail"]["verdict"], refused["detail"]["error"]) == ("failed", "CallFailed")


@either
def test_a_call_that_cannot_be_described_is_told_though_it_has_no_key(use, dsn, ledger):
    use(Config(dsn=dsn, rules=[Rule("refund", fields=["customer"])]), [(REFUND, lambda: "done")])

    (refused,) = told(ledger)
    assert (refused["detail"]["error"], refused["key"]) == ("Undescribable", None)


@either
def test_what_begin_writes_itself_is_not_told_again(use, dsn, ledger):
    budget = Budget("refunds", Calls(1), match="refund")
    ledger.apply(Config(budgets=[budget]))
    others = ToolCall("refund", {"order_id": "o-2"}, workflow_id="order-1")
    use(Config(dsn=dsn, budgets=[budget]), [(REFUND, lambda: "done"), (others, lambda: "done")])

    assert not told(ledger)
    assert [row["what"] for row in ledger.timeline("order-1")] == ["run", "succeeded", "refused"]


def test_begin_by_hand_tells_what_it_answers_and_a_call_that_runs_is_not_told(dsn, ledger):
    with Ledger(config=Config(dsn=dsn)) as mine:
        begun = mine.begin(REFUND)
        assert mine.begin(REFUND).verdict == "in_progress"
        mine.settle(begun, "done")
        assert mine.begin(REFUND).verdict == "replay"

    assert [(row["what"], row["detail"].get("verdict")) for row in told(ledger)] == [
        ("refused", "in_progress"),
        ("replay", None),
    ]


def test_a_ledger_that_does_not_answer_costs_the_caller_nothing_more():
    config = Config(dsn="host=127.0.0.1 port=1 dbname=none", ledger_timeout_s=1.0)
    with Ledger(config=config) as ledger, pytest.raises(errors.LedgerUnavailable):
        ledger.run(REFUND, lambda: "done")

    assert ledger._by_hand.trail.lost == 1
