"""Many items in one statement, and many statements at once."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from protocol import Protocol, item, key_of, new_attempt, until_blocked

KEYS = [f"call {n}" for n in range(12)]


def outcome(name: str, begun: dict, **fields) -> dict:
    return {"key": key_of(name), "attempt_id": begun["attempt_id"], "result": "1", "result_kept": True} | fields


def test_answers_come_in_the_order_of_the_items(acme: Protocol) -> None:
    acme.settle("b", acme.begin("b"))
    acme.begin("c")
    answers = acme.ask("begin", [item(name) for name in ("c", "a", "b")])
    assert [answer["verdict"] for answer in answers] == ["in_progress", "run", "replay"]


def test_items_are_admitted_in_order_each_as_if_it_were_alone(acme: Protocol) -> None:
    acme.budget("eur", 100)
    prices = {"z": 60, "y": 50, "x": 40}
    answers = acme.ask("begin", [item(name, reserve={"calls": 1, "EUR": price}) for name, price in prices.items()])
    assert [answer["verdict"] for answer in answers] == ["run", "budget_exceeded", "run"]
    assert (answers[1]["held"], acme.balance("eur")) == (60, (0, 100))


def test_of_equal_items_in_one_batch_one_runs(acme: Protocol) -> None:
    answers = acme.ask("begin", [item("a") for _ in range(3)])
    assert [answer["verdict"] for answer in answers] == ["run", "in_progress", "in_progress"]


def test_a_batch_is_settled_failed_and_resolved_in_the_order_of_its_items(acme: Protocol) -> None:
    acme.budget("eur", 100)
    names = ["c", "a", "b", "d"]
    begun = {name: acme.begin(name, reserve={"calls": 1, "EUR": 10}) for name in names}
    acme.ask("fail", [outcome("d", begun["d"], outcome_unknown=True), outcome("b", begun["b"])])
    stray = outcome("b", {"attempt_id": new_attempt()})
    settled = acme.ask("settle", [outcome("c", begun["c"]), stray, outcome("a", begun["a"])])
    assert [answer["owned"] for answer in settled] == [True, False, True]
    resolved = acme.ask("resolve", [{"key": key_of(name), "outcome": "failed"} for name in ("c", "d")])
    assert [answer["done"] for answer in resolved] == [False, True]
    assert acme.balance("eur") == (20, 0)


@pytest.mark.parametrize(("costs", "spent"), [(({}, {}), 70), (({"EUR": 5}, {}), 45), (({"EUR": 5}, {"EUR": 50}), 55)])
def test_calls_of_one_batch_are_booked_at_what_each_has_cost_or_had_reserved(acme: Protocol, costs, spent) -> None:
    acme.budget("eur", 100)
    begun = {name: acme.begin(name, reserve={"calls": 1, "EUR": price}) for name, price in (("a", 30), ("b", 40))}
    said = zip(begun.items(), costs, strict=True)
    acme.ask("settle", [outcome(name, answer, cost=cost) for (name, answer), cost in said])
    assert acme.balance("eur") == (spent, 0)


def test_calls_are_looked_up_by_their_keys_however_many_there_are(acme: Protocol) -> None:
    for _ in range(30):
        acme.ask("begin", [item(new_attempt()) for _ in range(100)])
    acme.sql.execute("analyze spanledger.call")
    asked = {name: item(name) for name in KEYS}
    with acme.sql.transaction():
        acme.ask("begin", list(asked.values()))
        acme.ask("settle", [outcome(name, begun) for name, begun in asked.items()])
        acme.ask("begin", [item(KEYS[0])])
        acme.ask("record", [{"event": "replay", "id": new_attempt(), "key": key_of(KEYS[0]), "at_s": time.time()}])
        read = acme.sql.execute("""
            select seq_scan from pg_stat_xact_user_tables where relid = 'spanledger.call'::regclass
        """).fetchone()
    assert read == (0,)


def test_an_empty_batch_has_an_empty_answer(acme: Protocol) -> None:
    assert [acme.ask(function, []) for function in ("begin", "settle", "fail", "resolve")] == [[], [], [], []]


def test_batches_that_overlap_in_any_order_never_wait_for_each_other_in_a_circle(
    shared_dsn: str, acme: Protocol
) -> None:
    acme.budget("eur", 10_000)
    acme.budget("count", 10_000, "calls")
    seed = random.randrange(2**32)
    print(f"seed {seed}")

    def worker(number: int) -> int:
        order = random.Random(seed + number)
        settled = 0
        with psycopg.connect(shared_dsn, autocommit=True) as connection:
            # A lost race is an answer, a deadlock is an error.
            connection.execute("set deadlock_timeout = '20ms'")
            protocol = Protocol(connection, acme.tenant)
            for _ in range(12):
                names = order.sample(KEYS, 6)
                items = [item(name, replay_for_s=0, reserve={"calls": 1, "EUR": 1}) for name in names]
                answers = protocol.ask("begin", items)
                mine = [
                    (name, asked)
                    for name, asked, answer in zip(names, items, answers, strict=True)
                    if answer["verdict"] == "run"
                ]
                order.shuffle(mine)
                half = len(mine) // 2
                protocol.ask("fail", [outcome(*one) for one in mine[:half]])
                answers = protocol.ask("settle", [outcome(*one) for one in mine[half:]])
                assert all(answer["owned"] for answer in answers)
                settled += len(answers)
        return settled

    with ThreadPoolExecutor(6) as pool:
        settled = sum(pool.map(worker, range(6)))
    assert acme.balance("eur") == (settled, 0)
    assert acme.balance("count") == (settled, 0)


@pytest.mark.parametrize("function", ["settle", "fail", "resolve"])
def test_outcomes_and_begins_in_opposite_order_do_not_lock_each_other_out(shared_dsn, acme: Protocol, function) -> None:
    # Two batches that share a budget: each must have all its calls before it takes the budget.
    acme.budget("eur", 100)
    with psycopg.connect(shared_dsn, autocommit=True) as one, psycopg.connect(shared_dsn, autocommit=True) as two:
        first, second = sorted(("a", "b"), key=key_of)
        begun = {name: acme.begin(name, reserve={"calls": 1, "EUR": 10}) for name in (first, second)}
        for name in (first, second):
            acme.fail(name, begun[name], outcome_unknown=True)
        ended = [outcome(name, begun[name], outcome="failed") for name in (first, second)]
        with ThreadPoolExecutor(1) as pool, two.transaction():
            # Somebody has the second call; the batch has the first and must not have the budget yet.
            two.execute(
                "select from spanledger.call where tenant = %s and key = decode(%s, 'hex') for update",
                (acme.tenant, key_of(second)),
            )
            batch = pool.submit(Protocol(one, acme.tenant).ask, function, ended)
            until_blocked(acme.sql, one.info.backend_pid)
            two.execute("set local lock_timeout = '5s'")
            two.execute("select from spanledger.account where tenant = %s for update", (acme.tenant,))
        assert len(batch.result(10)) == 2


def test_outcomes_of_calls_that_might_not_run_lock_accounts_by_their_age(shared_dsn, acme: Protocol) -> None:
    first, second = sorted(("a", "b"), key=key_of)
    for tool in (second, first):
        acme.budget(tool, 10, match=tool)
        acme.begin(f"before {tool}", tool=tool)
    refused = [(name, acme.begin(name, tool=name, reserve={"EUR": 20})) for name in (first, second)]
    ended = [outcome(name, begun, admitted=False) for name, begun in refused]
    account = "select id from spanledger.account where tenant = %s and budget = %s for update"
    with psycopg.connect(shared_dsn, autocommit=True) as one, psycopg.connect(shared_dsn, autocommit=True) as two:
        with ThreadPoolExecutor(1) as pool, two.transaction():
            older = two.execute(account, (acme.tenant, second)).fetchone()
            told = pool.submit(Protocol(one, acme.tenant).ask, "settle", ended)
            until_blocked(acme.sql, one.info.backend_pid)
            two.execute("set local lock_timeout = '5s'")
            assert older < two.execute(account, (acme.tenant, first)).fetchone()
        assert told.result(10) == [{"owned": True}, {"owned": True}]
    assert [acme.balance(name)[0] for name in (first, second)] == [20, 20]


def test_a_begin_that_waited_for_another_counts_in_the_budget_that_was_applied_meanwhile(
    shared_dsn, acme: Protocol
) -> None:
    claim = "select pg_advisory_xact_lock(spanledger.claim_of(%s, %s))"
    with psycopg.connect(shared_dsn, autocommit=True) as one, psycopg.connect(shared_dsn, autocommit=True) as two:
        with ThreadPoolExecutor(1) as pool, two.transaction():
            two.execute(claim, (acme.tenant, key_of("a")))
            begun = pool.submit(Protocol(one, acme.tenant).begin, "a")
            until_blocked(acme.sql, one.info.backend_pid)
            acme.budget("count", 0, "calls")
        assert begun.result(10)["verdict"] == "budget_exceeded"


def test_a_begin_locks_accounts_by_their_age_whatever_their_budgets_are_kept_apart_by(
    shared_dsn, acme: Protocol
) -> None:
    acme.budget("each", 10, "calls", per=["actor"])
    acme.begin("before", actor="ann")
    acme.budget("all", 10, "calls")
    acme.begin("since", actor="ann")
    accounts = "select id from spanledger.account where tenant = %s and budget = %s and scope {} '' for update"
    with psycopg.connect(shared_dsn, autocommit=True) as one, psycopg.connect(shared_dsn, autocommit=True) as two:
        with ThreadPoolExecutor(1) as pool, two.transaction():
            older = two.execute(accounts.format("<>"), (acme.tenant, "each")).fetchone()
            begun = pool.submit(Protocol(one, acme.tenant).begin, "a", actor="ann")
            until_blocked(acme.sql, one.info.backend_pid)
            two.execute("set local lock_timeout = '5s'")
            assert older < two.execute(accounts.format("="), (acme.tenant, "all")).fetchone()
        assert begun.result(10)["verdict"] == "run"


def test_whatever_is_asked_at_once_nobody_waits_in_a_circle_and_accounts_are_exact(shared_dsn, acme: Protocol) -> None:
    # Calls of tools and models, budgets of several kinds, people and workers, all on the same few keys.
    acme.budget("actor", 60, per=["actor"], window="rolling", window_s=1)
    acme.budget("count", 40, "calls")
    acme.budget("eur", 150)
    acme.budget("gpt", 60, match="gpt", window="day")
    acme.rate("USD", "EUR", "1.5")
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    until = time.monotonic() + 3

    def worker(number: int) -> int:
        order = random.Random(seed + number)
        with psycopg.connect(shared_dsn, autocommit=True) as connection:
            connection.execute("set deadlock_timeout = '20ms'")
            someone = Someone(Protocol(connection, acme.tenant), order)
            asked = 0
            while time.monotonic() < until:
                order.choice(someone.deeds)()
                asked += 1
        return asked

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(worker, range(6))) > 60
    held = "select a.held, coalesce(sum(h.amount), 0) from spanledger.account a "
    held += "left join (spanledger.call c cross join lateral unnest(c.accounts, c.held) h (id, amount)) on h.id = a.id "
    rows = acme.sql.execute(held + "where a.tenant = %s group by a.id", (acme.tenant,)).fetchall()
    assert all(account == calls for account, calls in rows)
    consents = (
        "select count(*) from spanledger.approval a join spanledger.call c using (tenant, key) where tenant = %s "
    )
    consents += "and (a.state in ('pending', 'approved')) <> (c.state = a.state and c.approval_id = a.id) "
    consents += (
        "and (a.state in ('pending', 'approved') or c.approval_id = a.id and c.state in ('pending', 'approved'))"
    )
    assert acme.sql.execute(consents, (acme.tenant,)).fetchone() == (0,)


class Someone:
    """A worker, a person and a heartbeat, who do anything to a few calls."""

    def __init__(self, protocol: Protocol, order: random.Random) -> None:
        self.protocol = protocol
        self.order = order
        self.ran: list[tuple[str, dict]] = []
        self.requests: list[str] = []
        self.deeds = [self.begin, self.begin, self.settle, self.fail, self.answer, self.judge, self.renew, self.let_die]

    def begin(self) -> None:
        names = [self.order.choice(KEYS) for _ in range(self.order.randint(1, 6))]
        items = [item(name, **self._terms(name)) for name in names]
        for name, asked, answer in zip(names, items, self.protocol.ask("begin", items), strict=True):
            if answer["verdict"] == "run":
                self.ran.append((name, asked))
            elif answer["verdict"] == "awaiting_approval":
                self.requests.append(answer["approval_id"])

    def _terms(self, name: str) -> dict:
        order, model = self.order, name[-1] in "123"
        return {
            "tool": "gpt" if model else "refund",
            "operation": "chat" if model else "execute_tool",
            "reserve": {"calls": 1, order.choice(["EUR", "USD"]): order.choice([1, 10, 20])},
            "actor": order.choice(["u", "v"]),
            "replay_for_s": 0,
            "on_unknown": order.choice(["ask", "retry", "probe"]),
            "fingerprint": key_of(order.choice(["these", "those"])),
            "wait_s": 1,
        } | ({"approval": True} if not model and order.random() < 0.5 else {})

    def settle(self) -> None:
        self.protocol.ask("settle", [outcome(*one, cost={"EUR": self.order.choice([1, 30])}) for one in self._some()])

    def fail(self) -> None:
        how = [{}, {"outcome_unknown": True}, {"not_invoked": True}]
        self.protocol.ask("fail", [outcome(*one, **self.order.choice(how)) for one in self._some()])

    def answer(self) -> None:
        ids = self.order.sample(self.requests[-8:], min(3, len(self.requests)))
        function = self.order.choice(["approve", "approve", "deny"])
        self.protocol.ask(function, [{"id": id_, "by": "boss"} for id_ in ids])

    def judge(self) -> None:
        names = self.order.sample(KEYS, 3)
        function = self.order.choice(["resolve", "resolve", "cancel"])
        outcomes = [self.order.choice(["succeeded", "failed", "retry"]) for _ in names]
        items = [{"key": key_of(n), "outcome": o, "by": "ops"} for n, o in zip(names, outcomes, strict=True)]
        self.protocol.ask(function, items)

    def renew(self) -> None:
        self.protocol.renew(*[outcome(*one, lease_s=60) for one in self._some()])

    def let_die(self) -> None:
        for name in self.order.sample(KEYS, 2):
            self.protocol.lease_over(name)

    def _some(self) -> list[tuple[str, dict]]:
        return self.order.sample(self.ran[-10:], min(self.order.randint(1, 4), len(self.ran[-10:])))
