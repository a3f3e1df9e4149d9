"""What a handler that runs by hand knows of its call, and what it may say of it."""

from __future__ import annotations

from typing import Any

import pytest
from ways import REFUND, either_way

import spanledger
from spanledger import Budget, Config, Ledger, Money, current_call, tool

EUR = (Budget("eur", Money("100", "EUR")),)


@either_way
def test_a_handler_is_told_the_key_and_the_attempt_of_its_call(dsn: str, run) -> None:
    def handler() -> list[Any]:
        return [current_call().key, current_call().attempt]

    with Ledger(dsn) as ledger:
        assert run(Config(dsn=dsn), handler) == [ledger.key(REFUND), 1]
    assert current_call().key is None


@either_way
@pytest.mark.parametrize(("fails", "state"), [(False, "succeeded"), (True, "failed")])
def test_what_a_handler_charges_is_what_its_call_costs(dsn: str, run, fails: bool, state: str) -> None:
    def handler() -> str:
        for _ in range(2):
            current_call().charge(Money("3", "EUR"))
        if fails:
            raise ValueError("no")
        return "done"

    config = Config(dsn=dsn, budgets=EUR)
    if fails:
        with pytest.raises(ValueError, match="no"):
            run(config, handler)
    else:
        run(config, handler)
    with Ledger(dsn) as ledger:
        assert ledger.budget("eur").spent == Money("6", "EUR")
        assert [row["state"] for row in ledger.calls()] == [state]


@either_way
def test_charges_beyond_counting_are_told_as_the_most_that_is_counted(dsn: str, run) -> None:
    def handler() -> str:
        for _ in range(100):
            current_call().charge(Money("99999999999", "EUR"))
        return "done"

    run(Config(dsn=dsn, budgets=EUR), handler)
    with Ledger(dsn) as ledger:
        assert [row["state"] for row in ledger.calls()] == ["succeeded"]
        assert ledger.budget("eur").spent == Money("100000000000", "EUR")


def test_a_tool_that_is_the_same_call_runs_within_it_and_is_paid_once(dsn: str) -> None:
    config = Config(dsn=dsn, budgets=EUR)
    spanledger.instrument(config, libraries=[])

    @tool("refund")
    def refund(order_id: str) -> str:
        current_call().charge(Money("5", "EUR"))
        return order_id

    with spanledger.workflow("w"), Ledger(config=config) as ledger:
        assert ledger.run(REFUND, lambda: refund("o-1")) == "o-1"
        assert [row["state"] for row in ledger.calls()] == ["succeeded"]
        assert ledger.budget("eur").spent == Money("5", "EUR")
