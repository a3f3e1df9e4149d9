"""Play one round: workers refund orders, die and are started again; then the books are compared with the bank's.

Rules: the bank is a file that every effect appends one line to, with one write; it outlives every worker and is the
truth. A worker dies by SIGKILL: at a point it has drawn itself (before the effect, after it) or by a timer that may
strike anywhere (while claiming, while settling, while waiting for another worker or for a person). Where the rule asks
for approvals, persons say yes or no to what is pending, and die as well. What is drawn comes from the seed; who draws
next and what the timers hit does not, so a seed that failed is to be played again several times.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from spanledger import Budget, Config, Ledger, Money, Resolution, Rule, ToolCall
from spanledger.core.call import Call
from spanledger.errors import SpanledgerError

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.simulation.chaos"])
PRICE = Money("0.10", "EUR")
# The share of orders that are denied.
NO = 0.2
LEASE_S = 0.3
ROUND_MAX_S = 60.0


@dataclass(frozen=True)
class Plan:
    """What one round is.

    Attributes:
        dsn: The ledger.
        bank: The bank's file.
        seed: Of everything that is drawn.
        on_unknown: What the rule does with a call of unknown outcome.
        approval: A person has to say yes to every attempt.
        orders: How many calls there are; all workers want all of them.
        workers: How many processes run at once.
        deaths_max: Workers die until so many have.
    """

    dsn: str
    bank: str
    seed: int
    on_unknown: str
    approval: bool = False
    orders: int = 12
    workers: int = 3
    deaths_max: int = 12

    def config(self) -> Config:
        """The configuration of every worker."""
        probe = BankProbe(self.bank) if self.on_unknown == "probe" else None
        rule = Rule(
            "refund",
            lease_s=LEASE_S,
            wait_timeout_s=5.0,
            probe=probe,
            on_unknown=self.on_unknown,
            approval=self.approval,
        )
        return Config(dsn=self.dsn, rules=(rule,), budgets=(Budget("refunds", Money("1000", "EUR")),))


@dataclass(frozen=True)
class BankProbe:
    """Asks the bank whether an order was refunded."""

    bank: str

    def __call__(self, call: Call, key: str) -> Resolution:
        order = str((call.arguments or {})["order"])  # type: ignore[index]
        return Resolution("succeeded", result=order) if order in effects(self.bank) else Resolution("retry")


@dataclass
class Played:
    """What came of a round.

    Attributes:
        effects: Order → how often the bank paid.
        states: Order → how the ledger's row ended.
        spent: By the budget.
        held: By the budget.
        consents: Order → how many approvals were used up.
        deaths: How many workers were killed.
    """

    effects: dict[str, int]
    states: dict[str, str]
    spent: Money
    held: Money
    consents: dict[str, int]
    deaths: int = field(default=0)


def play(plan: Plan) -> Played:
    """Run workers until every order is as settled as its rule allows."""
    Path(plan.bank).touch()
    drawn = random.Random(plan.seed)
    until_s = time.monotonic() + ROUND_MAX_S
    deaths, seats = 0, list(range(plan.workers))
    running: dict[int, multiprocessing.process.BaseProcess] = {}
    person = Person(plan, drawn)
    while (seats or running) and time.monotonic() < until_s:
        person.is_there()
        for seat in seats:
            arguments = (plan, drawn.getrandbits(32), deaths < plan.deaths_max)
            running[seat] = CONTEXT.Process(target=work, args=arguments, daemon=True)
            running[seat].start()
        seats = []
        for seat, process in list(running.items()):
            process.join(0.05)
            if process.exitcode is not None:
                del running[seat]
                if process.exitcode == -signal.SIGKILL:
                    deaths += 1
                    seats.append(seat)
                elif process.exitcode != 0:
                    raise AssertionError(f"a worker ended with {process.exitcode}")
    person.goes()
    if running or seats:
        raise AssertionError(f"not every worker was done within {ROUND_MAX_S} s")
    time.sleep(LEASE_S)  # those who died left leases
    return _compared(plan, deaths)


class Person:
    """Somebody at the desk, as long as anybody works; whoever dies is replaced."""

    def __init__(self, plan: Plan, drawn: random.Random) -> None:
        self._plan, self._drawn = plan, drawn
        self._process: multiprocessing.process.BaseProcess | None = None

    def is_there(self) -> None:
        """Let somebody come, where there is something to decide and nobody there."""
        if self._plan.approval and (self._process is None or not self._process.is_alive()):
            arguments = (self._plan, self._drawn.getrandbits(32))
            self._process = CONTEXT.Process(target=decide, args=arguments, daemon=True)
            self._process.start()

    def goes(self) -> None:
        """Nobody works any more."""
        if self._process is not None:
            self._process.kill()
            self._process.join()


def decide(plan: Plan, seed: int) -> None:
    """Say yes or no to what is pending, the same to all requests for an order, until one dies."""
    drawn = random.Random(seed)
    threading.Timer(drawn.uniform(0.05, 2.0), die).start()
    with Ledger(config=plan.config()) as ledger:
        while True:
            for approval in ledger.approvals():
                say = ledger.deny if random.Random(f"{plan.seed} {approval.key}").random() < NO else ledger.approve
                say(approval.id, by="ops@example.com")
            time.sleep(drawn.uniform(0, 0.02))


def work(plan: Plan, seed: int, mortal: bool) -> None:
    """Refund every order, in an order of one's own; die at a moment that was drawn."""
    drawn = random.Random(seed)
    orders = [str(n) for n in range(plan.orders)]
    drawn.shuffle(orders)
    fatal = drawn.choice(orders) if mortal else None
    how = drawn.choice(("before", "after", "timer", *(["pending"] if plan.approval else [])))
    with Ledger(config=plan.config()) as ledger:
        for order in orders:
            if order == fatal and how in ("timer", "pending"):
                threading.Timer(drawn.uniform(0, 0.01 if how == "timer" else 0.05), die).start()
            fate = (how if order == fatal else None, drawn.random())
            call = ToolCall("refund", {"order": order}, workflow_id="w", cost=PRICE)
            with contextlib.suppress(SpanledgerError, ValueError, TimeoutError):
                assert ledger.run(call, lambda o=order, f=fate: refund(plan.bank, o, *f)) == order
    if mortal:
        die()


def refund(bank: str, order: str, fatal: str | None, luck: float) -> str:
    """The tool: pays, mostly."""
    if luck < 0.15:
        raise ValueError("the bank said no")
    if luck < 0.2:
        raise TimeoutError("the bank did not answer, and did nothing")
    if fatal == "before":
        die()
    pay(bank, order)
    if fatal == "after":
        die()
    if luck < 0.3:
        raise TimeoutError("the bank did not answer, and had paid")
    return order


def pay(bank: str, order: str) -> None:
    """The effect: one line, in one write."""
    descriptor = os.open(bank, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, f"{order}\n".encode())
    os.close(descriptor)


def effects(bank: str) -> dict[str, int]:
    """Order → how often the bank paid."""
    lines = Path(bank).read_text().split()
    return {order: lines.count(order) for order in lines}


def die() -> None:
    """As a machine dies: without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


def _compared(plan: Plan, deaths: int) -> Played:
    with Ledger(config=plan.config()) as ledger:
        rows = ledger.calls(workflow_id="w", limit=10 * plan.orders)
        states = {order_of(row["arguments"]): row["state"] for row in rows}
        balance = ledger.budget("refunds")
        used = [json.dumps(a.arguments) for a in ledger.approvals(state="consumed", limit=1000)]
        consents = {order_of(text): used.count(text) for text in used}
        return Played(effects(plan.bank), states, balance.spent, balance.held, consents, deaths)  # type: ignore[arg-type]


def order_of(arguments: str) -> str:
    """The order in a row's arguments."""
    return str(json.loads(arguments)["order"])
