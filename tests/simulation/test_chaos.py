"""Workers are killed at every moment; the ledger never lets an effect happen twice and never lies about one.

A default run plays a few rounds. `python -m tests.simulation.run --rounds 200` plays many, and prints the seed of each.
"""

from __future__ import annotations

import random

import pytest
from tests.simulation.chaos import PRICE, Plan, Played, play

from spanledger import Money

ROUNDS = 1


def price_of(calls: int) -> Money:
    return Money(PRICE.amount * calls, PRICE.currency)


def check(plan: Plan, played: Played) -> None:
    """What holds after every round, whatever the rule says."""
    told = f"seed {plan.seed}: {played}"
    assert max(played.effects.values(), default=0) <= 1, told
    succeeded = {order for order, state in played.states.items() if state == "succeeded"}
    unknown = {order for order, state in played.states.items() if state == "unknown"}
    assert {order for order in succeeded if played.effects.get(order) != 1} == set(), told
    # What was paid is known as paid, or as something nobody knows.
    assert played.effects.keys() - succeeded - unknown == set(), told
    ends = {"succeeded", "failed", "unknown", "released"} | (
        {"denied", "approved", "pending"} if plan.approval else set()
    )
    assert set(played.states.values()) <= ends, told
    if plan.approval:
        denied = {order for order, state in played.states.items() if state == "denied"}
        assert denied.isdisjoint(played.effects), told
        assert played.effects.keys() <= played.consents.keys(), f"paid without consent; {told}"
    assert played.spent == price_of(len(succeeded)), told
    assert played.held == price_of(len(unknown)), told


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("approval", [False, True])
@pytest.mark.parametrize("on_unknown", ["ask", "probe"])
def test_killed_workers_neither_pay_twice_nor_leave_a_lie(
    dsn: str, tmp_path, on_unknown: str, approval: bool, number: int
) -> None:
    seed = random.SystemRandom().getrandbits(32)  # anew in every run; what fails is printed with it
    plan = Plan(dsn, str(tmp_path / "bank"), seed, on_unknown, approval)

    played = play(plan)

    assert played.deaths >= plan.workers
    check(plan, played)
