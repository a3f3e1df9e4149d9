"""A bank that counts, and workers that refund orders whatever happens to their ledger.

Rules: the bank is in this process, which outlives what the tests kill, and is the truth. Every worker wants every
order, in an order of its own. A worker asks again when the ledger does not answer, and goes on to the next order when
there is an answer: a result, or that nobody knows. Some effects fail, and some end in silence, as those of real banks
do; what is drawn comes from a seed that is shown when a check fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

from spanledger import AsyncLedger, Budget, Calls, Config, Ledger, Money, Rule, ToolCall, Verdict
from spanledger.errors import CallInProgress, LedgerUnavailable, OutcomeUnknown

PRICE = Money("0.10", "EUR")
LEASE_S = 2.0
PATIENCE_S = 60.0
BUDGETS = (Budget("euros", Money("100", "EUR")), Budget("refunds", Calls(10_000)))


class Declined(ValueError):
    """The bank says no: nothing was paid."""


class Silence(TimeoutError):
    """The bank says nothing."""


ENDS = (LedgerUnavailable, CallInProgress, OutcomeUnknown, Declined, Silence)


class Bank:
    """Pays, mostly, and remembers what it paid.

    Args:
        drawn: Decides who is declined, and who hears nothing.
        slow_s: How long a payment takes.
    """

    def __init__(self, drawn: random.Random, slow_s: float = 0.004) -> None:
        self.paid: Counter[int] = Counter()
        self._drawn = drawn
        self._slow_s = slow_s
        self._lock = threading.Lock()

    def pay(self, order: int) -> int:
        time.sleep(self._slow_s)
        return self._decide(order)

    async def pay_awaiting(self, order: int) -> int:
        await asyncio.sleep(self._slow_s)
        return self._decide(order)

    def _decide(self, order: int) -> int:
        with self._lock:
            luck = self._drawn.random()
            if luck < 0.05:
                raise Declined(order)
            if luck < 0.08:
                raise Silence("it had not paid")
            self.paid[order] += 1
            if luck < 0.10:
                raise Silence("it had paid")
        return order


class World:
    """Workers, their orders and the bank.

    Args:
        dsn: The ledger of the workers.
        orders: How many calls there are.
        seed: Of everything that is drawn.
        timeout_s: How long a worker waits for the ledger.
    """

    def __init__(self, dsn: str, *, orders: int, seed: int, timeout_s: float = 3.0) -> None:
        rule = Rule("refund", lease_s=LEASE_S, wait_timeout_s=1.0, on_unknown="ask")
        self.config = Config(dsn=dsn, rules=(rule,), budgets=BUDGETS, ledger_timeout_s=timeout_s)
        self.seed = seed
        self.orders = range(orders)
        self.bank = Bank(random.Random(seed))
        self.given: set[int] = set()  # results that reached a caller
        self.acknowledged: set[int] = set()  # outcomes that the ledger said it has
        self.ended: Counter[str] = Counter()
        self._errors: list[BaseException] = []

    @contextlib.contextmanager
    def working(self, *, threads: int, tasks: int, hands: int = 1) -> Iterator[None]:
        """Let workers work; the end of the block waits until each has been through all orders.

        Args:
            threads: Workers that block, on one ledger.
            tasks: Workers of one event loop.
            hands: Workers that begin and settle by hand, and so know what the ledger has acknowledged.
        """
        with Ledger(config=self.config) as ledger:
            work = [lambda n=n: self._blocking(ledger, n) for n in range(threads)]
            work += [lambda n=n: self._by_hand(ledger, 100 + n) for n in range(hands)]
            if tasks:
                work.append(lambda: asyncio.run(self._awaiting(tasks)))
            workers = [threading.Thread(target=self._reporting, args=(job,), daemon=True) for job in work]
            for worker in workers:
                worker.start()
            try:
                yield
            finally:
                for worker in workers:
                    worker.join(PATIENCE_S)
        assert not self._errors, (self.seed, self._errors)
        assert not any(worker.is_alive() for worker in workers), f"seed {self.seed}: a worker hangs"

    def wait_for_effects(self, count: int) -> None:
        """Wait until the bank has paid so often."""
        self.wait_for(lambda: self.bank.paid.total() >= count or bool(self._errors))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < until_s, f"seed {self.seed}: it did not happen"
            time.sleep(0.005)

    def check(self, dsn: str | None = None) -> dict[str, int]:
        """Compare the books with the bank's, find out what is unknown, and compare again.

        Returns:
            How many calls ended in which state.
        """
        with Ledger(dsn, config=self.config) as ledger:
            # What is still on disk is told by whoever comes next, once the courier's pauses let it.
            ledger.calls()
            ledger._database.prepare()
            ledger._database._courier.start()
            self.wait_for(lambda: ledger._database.spooled().entries == 0)
            assert ledger._database.spooled().aside == 0
            self.wait_for(lambda: not ledger.calls(state="in_flight"))
            rows = {row["key"]: row["state"] for row in ledger.calls(limit=10 * len(self.orders))}
            states = {order: rows.get(ledger.key(refund(order)), "none") for order in self.orders}
            told = f"seed {self.seed}: {states} {self.bank.paid}"
            by_state = {state: {o for o, s in states.items() if s == state} for state in states.values()}
            succeeded, unknown = by_state.get("succeeded", set()), by_state.get("unknown", set())
            assert max(self.bank.paid.values(), default=0) <= 1, told
            assert {order for order in succeeded if not self.bank.paid[order]} == set(), told
            assert self.bank.paid.keys() - succeeded - unknown == set(), told
            assert (self.given | self.acknowledged) - succeeded == set(), told
            self._check_budgets(ledger, spent=len(succeeded), held=len(unknown))
            for order in unknown:
                outcome = "succeeded" if self.bank.paid[order] else "failed"
                assert ledger.resolve(ledger.key(refund(order)), by="a person", outcome=outcome)
            self._check_budgets(ledger, spent=self.bank.paid.total(), held=0)
        return {state: len(orders) for state, orders in by_state.items()}

    def _check_budgets(self, ledger: Ledger, *, spent: int, held: int) -> None:
        euros, refunds = ledger.budget("euros"), ledger.budget("refunds")
        assert (euros.spent, euros.held) == (price_of(spent), price_of(held)), f"seed {self.seed}"
        assert (refunds.spent, refunds.held) == (Calls(spent), Calls(held)), f"seed {self.seed}"

    def _turned(self, number: int) -> list[int]:
        orders = list(self.orders)
        random.Random(self.seed + number).shuffle(orders)
        return orders

    def _reporting(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._errors.append(error)

    def _blocking(self, ledger: Ledger, number: int) -> None:
        for order in self._turned(number):
            while True:
                try:
                    assert ledger.run(refund(order), lambda o=order: self.bank.pay(o)) == order
                except ENDS as error:
                    if self._is_final(error):
                        break
                    time.sleep(0.02)
                else:
                    self.given.add(order)
                    break

    async def _awaiting(self, tasks: int) -> None:
        async with AsyncLedger(config=self.config) as ledger:
            await asyncio.gather(*(self._task(ledger, 10 + n) for n in range(tasks)))

    async def _task(self, ledger: AsyncLedger, number: int) -> None:
        for order in self._turned(number):
            while True:
                try:
                    assert await ledger.run(refund(order), lambda o=order: self.bank.pay_awaiting(o)) == order
                except ENDS as error:
                    if self._is_final(error):
                        break
                    await asyncio.sleep(0.02)
                else:
                    self.given.add(order)
                    break

    def _by_hand(self, ledger: Ledger, number: int) -> None:
        for order in self._turned(number):
            begun = insisting(lambda o=order: ledger.begin(refund(o)))
            if begun.verdict is not Verdict.RUN:
                continue
            try:
                self.bank.pay(order)
            except (Declined, Silence) as error:
                insisting(lambda b=begun, e=error: ledger.fail(b, e))
            else:
                if insisting(lambda b=begun, o=order: ledger.settle(b, o)):
                    self.acknowledged.add(order)

    def _is_final(self, error: Exception) -> bool:
        self.ended[type(error).__name__] += 1
        return isinstance(error, OutcomeUnknown | Silence)


def refund(order: int) -> ToolCall:
    return ToolCall("refund", {"order": order}, workflow_id="w", cost=PRICE)


def price_of(calls: int) -> Money:
    return Money(PRICE.amount * calls, PRICE.currency)


def insisting(ask: Callable[[], object]) -> object:
    """Ask until there is an answer."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except LedgerUnavailable:
            assert time.monotonic() < until_s
            time.sleep(0.02)
