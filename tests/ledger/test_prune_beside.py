"""Pruning beside others: prunes, programs that work, and whatever kills it."""

from __future__ import annotations

import os
import signal
import threading

import pruners
import psycopg
import pytest
from tests.aging import age
from workers import TIMEOUT_S, started, together

from spanledger import Budget, Money
from spanledger.errors import ResultNotKept

ORDERS = 40
ALL = Money("4.00", "EUR")
# As if every call that is over had ended long ago; nobody waits for it.
AGED = """
update spanledger.call c set
    started_at = started_at - interval '100 days', ended_at = ended_at - interval '100 days'
from (select key from spanledger.call where state = 'succeeded' and pruned_at is null for update skip locked) k
where c.key = k.key
"""


def insert(sql: psycopg.Connection, count: int) -> None:
    """Put calls there that have succeeded, a hundred days ago, each with an entry of history."""
    sql.execute(
        """
        with made as (
            insert into spanledger.call (tenant, key, state, attempt, attempts, attempt_id, tool, operation,
                workflow_id, key_source, arguments, result, result_kept, created_at, started_at, ended_at)
            select 'default', sha256(convert_to(n::text, 'UTF8')), 'succeeded', 1, 1, gen_random_uuid(), 'refund',
                'execute_tool', 'w', 'arguments', '{}', '1', true, at, at, at
            from generate_series(1, %s) n cross join lateral (select now() - interval '100 days' as at) t
            returning tenant, key, ended_at)
        insert into spanledger.history (tenant, key, at, event, attempt)
            select m.tenant, m.key, m.ended_at, 'superseded', 1 from made m
        """,
        (count,),
    )


def left(sql: psycopg.Connection) -> tuple[int, int]:
    """How many calls have their payload, and how many entries there are of history."""
    return sql.execute(
        "select (select count(*) from spanledger.call where result is not null), "
        "(select count(*) from spanledger.history)"
    ).fetchone()


def test_two_that_prune_at_once_do_it_once(dsn, ledger, sql):
    insert(sql, 2400)

    counts = together(2, pruners.prune, dsn)

    assert sum(each["calls"] for each in counts) == sum(each["history"] for each in counts) == 2400
    assert left(sql) == (0, 0)
    assert sql.execute("select count(*) from spanledger.call where pruned_at is not null").fetchone() == (2400,)


def test_a_prune_that_was_killed_has_lost_nothing_and_the_next_goes_on(dsn, ledger, sql):
    insert(sql, 20_000)
    process, reader = started(pruners.prune_until_killed, dsn)
    assert reader.poll(TIMEOUT_S)
    assert reader.recv() == "ready"
    while left(sql)[0] == 20_000:  # until the first batch is done
        assert process.is_alive()
    os.kill(process.pid, signal.SIGKILL)
    process.join(TIMEOUT_S)

    counts = pruners.prune(1, dsn)

    assert 0 < counts["calls"] < 20_000
    assert left(sql) == (0, 0)
    assert sql.execute("select count(*), count(pruned_at) from spanledger.call").fetchone() == (20_000, 20_000)


def test_beside_programs_that_work_nothing_happens_twice_and_every_cent_counts(dsn, ledger_with, sql, tmp_path):
    ledger = ledger_with(budgets=[Budget("all", ALL), Budget("week", ALL, window=7 * 86400.0)])
    ledger.apply(ledger.config, by="ops")
    over = threading.Event()
    pruned = []

    def prune_what_ended() -> None:
        with psycopg.connect(dsn, autocommit=True) as own:
            while not over.is_set():
                own.execute(AGED)
                pruned.append(pruners.prune(0, dsn)["calls"])

    pruner = threading.Thread(target=prune_what_ended)
    pruner.start()
    try:
        ends = together(2, pruners.refund_all, dsn, str(tmp_path), ORDERS)
    finally:
        over.set()
        pruner.join(TIMEOUT_S)

    assert sum(each["ran"] for each in ends) == len(list(tmp_path.iterdir())) == ORDERS
    assert sum(each.get("had", 0) + each.get("gone", 0) for each in ends) == 4 * ORDERS
    for balance in (ledger.budget("all"), ledger.budget("week")):
        assert (balance.spent, balance.held) == (ALL, Money("0", "EUR"))
    age(sql, 100, "call")
    pruned.append(pruners.prune(0, dsn)["calls"])
    assert sum(pruned) == ORDERS
    for n in range(ORDERS):
        with pytest.raises(ResultNotKept, match="pruned on"):
            ledger.run(pruners.order(n), lambda: pytest.fail("ran"))
