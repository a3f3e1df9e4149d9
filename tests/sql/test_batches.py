"""Many items in one statement, and many statements at once."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from protocol import Protocol, item, key_of, new_attempt

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
            _until_blocked(acme.sql, one.info.backend_pid)
            two.execute("set local lock_timeout = '5s'")
            two.execute("select from spanledger.account where tenant = %s for update", (acme.tenant,))
        assert len(batch.result(10)) == 2


def _until_blocked(sql: psycopg.Connection, pid: int) -> None:
    for _ in range(10_000):
        if sql.execute("select cardinality(pg_blocking_pids(%s))", (pid,)).fetchone() != (0,):
            return
    pytest.fail("nobody waited")
