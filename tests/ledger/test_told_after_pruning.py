"""Outcomes on the disk of a host that was away while the ledger was pruned: each is booked once, and none is lost."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from tests.aging import age, contents

from spanledger import Budget, Config, Ledger, Money, Rule, ToolCall

BUDGETS = [Budget("all", Money("100", "EUR")), Budget("week", Money("100", "EUR"), window=7 * 86400.0)]
CANARY = "canary-8e1c77"
CALL = ToolCall("refund", {"note": CANARY}, workflow_id="w", key="k-1", cost=Money("7", "EUR"))
UNNAMED = ToolCall("look", {"note": CANARY}, workflow_id="w", cost=Money("7", "EUR"))
RULES = [Rule("refund", on_unknown="retry"), Rule("look", identity="none")]


class Away:
    """A host that has an outcome on its disk, and is away."""

    def __init__(self, dsn: str, entry: Path, kept: Path) -> None:
        self._dsn, self._entry = dsn, entry
        self._kept = shutil.move(entry, kept / entry.name)

    def comes_back(self, times: int = 1) -> None:
        """Let it tell the ledger. Twice: it lost its power before it could note that it had told it."""
        for _ in range(times):
            shutil.copy(self._kept, self._entry)
            with Ledger(config=Config(dsn=self._dsn)) as host:
                host.calls(limit=1)
                deadline_s = time.monotonic() + 20
                while self._entry.exists():
                    assert time.monotonic() < deadline_s
                    time.sleep(0.01)
                known = host.get(json.loads(self._kept.read_text())["item"]["key"]) is not None
            aside = list(self._entry.parent.glob("*.aside"))
            assert bool(aside) != known
            for entry in aside:
                entry.unlink()


@pytest.fixture
def ledger(ledger_with) -> Ledger:
    ledger = ledger_with(rules=RULES, budgets=BUDGETS)
    ledger.apply(ledger.config, by="ops")
    return ledger


@pytest.fixture
def run_away(dsn: str, sql: psycopg.Connection, tmp_path: Path) -> Callable[..., Away]:
    """Make a call on a host that loses its way to the ledger, while the call runs or before it is made."""

    def lose(host: Ledger) -> None:
        sql.execute("begin")
        sql.execute("lock table spanledger.call in access exclusive mode")
        # Until then it had all the time that a busy machine may take.
        host._database.timeout_s = host._database._threads.batches._timeout_s = 0.2

    def run_away(call: ToolCall, *, unguarded: bool = False, **terms) -> Away:
        rules = [Rule(call.tool, on_ledger_down="continue", **{"identity": "none"} if call is UNNAMED else {}, **terms)]
        with Ledger(config=Config(dsn=dsn, rules=rules)) as host:
            host.calls(limit=1)
            if unguarded:
                lose(host)
            assert host.run(call, lambda: unguarded or lose(host) or "done") in ("done", True)
        sql.execute("rollback")
        (entry,) = (tmp_path / "state").rglob("*.json")
        return Away(dsn, entry, tmp_path)

    return run_away


def lapse(sql: psycopg.Connection) -> None:
    sql.execute("update spanledger.call set lease_until = now() - interval '1 second' where state = 'in_flight'")


def prune(ledger: Ledger, sql: psycopg.Connection) -> None:
    """Let a hundred days pass and prune, twice."""
    for _ in range(2):
        age(sql, 100, "call", "history", "approval")
        ledger.prune(by="ops", older_than_s=90 * 86400.0)


def balances(ledger: Ledger) -> set[tuple[Money, Money]]:
    """Spent and held of both budgets, which are to be the same."""
    return {(b.spent, b.held) for b in (ledger.budget("all"), ledger.budget("week"))}


def booked(spent: int, held: int = 0) -> set[tuple[Money, Money]]:
    return {(Money(spent, "EUR"), Money(held, "EUR"))}


def left_in(sql: psycopg.Connection) -> set[str]:
    return {table for table, rows in contents(sql).items() if any(CANARY in row for row in rows)}


def test_a_call_that_runs_is_never_pruned_and_its_outcome_is_the_truth(ledger, sql, run_away) -> None:
    host = run_away(CALL)
    lapse(sql)
    prune(ledger, sql)
    assert balances(ledger) == booked(0, 7)

    host.comes_back(times=2)

    assert balances(ledger) == booked(7)
    assert ledger.run(CALL, lambda: pytest.fail("ran")) == "done"


@pytest.mark.parametrize("call", [CALL, UNNAMED])
@pytest.mark.parametrize("outcome", ["succeeded", "failed", "cancelled"])
def test_what_a_person_said_of_it_is_booked_and_what_it_was_is_booked_once(
    ledger, sql, run_away, call, outcome
) -> None:
    host = run_away(call)
    lapse(sql)
    key = ledger.calls()[0]["key"]
    if outcome == "cancelled":
        assert ledger.cancel(key, by="ops", reason=CANARY)
    else:
        assert ledger.resolve(key, by="ops", outcome=outcome, reason=CANARY)
    prune(ledger, sql)
    assert balances(ledger) == booked(7 if outcome == "succeeded" else 0)
    assert left_in(sql) == set()

    host.comes_back(times=2)
    assert balances(ledger) == booked(7)
    prune(ledger, sql)
    host.comes_back()

    assert balances(ledger) == booked(7)


@pytest.mark.parametrize("taken_over", ["by its rule", "by a person"])
def test_of_a_call_that_was_taken_over_both_attempts_are_booked_once(ledger, sql, run_away, taken_over) -> None:
    host = run_away(CALL)
    lapse(sql)
    if taken_over == "by a person":
        assert ledger.resolve(ledger.calls()[0]["key"], by="ops", outcome="retry", reason=CANARY)
    assert ledger.run(CALL, lambda: "again") == "again"
    prune(ledger, sql)
    assert balances(ledger) == booked(7)
    assert left_in(sql) == set()

    host.comes_back(times=2)
    assert balances(ledger) == booked(14)
    prune(ledger, sql)
    host.comes_back()

    assert balances(ledger) == booked(14)
    assert (ledger.calls()[0]["state"], ledger.calls()[0]["attempt"]) == ("succeeded", 2)


def test_a_timeline_says_that_what_stays_of_an_attempt_was_pruned(ledger, sql, run_away) -> None:
    host = run_away(CALL)
    lapse(sql)
    ledger.run(CALL, lambda: "again")
    host.comes_back()
    prune(ledger, sql)

    rows = sql.execute(
        "select what, attempt, detail ? 'pruned_at' from spanledger_v1.timeline where source <> 'trail' order by 1, 2"
    ).fetchall()

    assert rows == [("late_success", 1, True), ("run", 1, True), ("run", 2, True), ("succeeded", 2, False)]


def test_what_came_late_before_it_was_pruned_is_not_booked_when_it_is_told_again(ledger, sql, run_away) -> None:
    host = run_away(CALL)
    lapse(sql)
    ledger.run(CALL, lambda: "again")
    host.comes_back()
    prune(ledger, sql)
    assert left_in(sql) == set()

    host.comes_back()

    assert balances(ledger) == booked(14)


@pytest.mark.parametrize("call", [CALL, UNNAMED])
@pytest.mark.parametrize("told_before", [True, False])
def test_what_ran_while_the_ledger_was_down_is_booked_once(ledger, sql, run_away, call, told_before) -> None:
    host = run_away(call, unguarded=True, replay_for_s=3600)
    if told_before:
        host.comes_back()
        assert balances(ledger) == booked(7)
    prune(ledger, sql)

    host.comes_back(times=2)

    assert balances(ledger) == booked(7)
    (row,) = ledger.calls()
    assert (row["state"], row["attempt"]) == ("succeeded", 1)


@pytest.mark.parametrize("since", ["runs", "succeeded", "failed"])
def test_what_ran_while_the_ledger_was_down_beside_another_is_booked_once(ledger, sql, run_away, since) -> None:
    begun = ledger.begin(CALL)
    host = run_away(CALL, unguarded=True, replay_for_s=3600)
    host.comes_back()
    assert balances(ledger) == booked(7, 7)
    if since == "succeeded":
        ledger.settle(begun, "done")
    elif since == "failed":
        ledger.fail(begun, ValueError(CANARY))
    prune(ledger, sql)
    before = balances(ledger)

    host.comes_back(times=2)

    assert balances(ledger) == before == {"runs": booked(7, 7), "succeeded": booked(14), "failed": booked(7)}[since]
    assert ledger.calls()[0]["attempt"] == 1


def test_what_ran_while_the_ledger_was_down_is_booked_once_though_its_key_has_run_again(
    ledger_with, sql, run_away
) -> None:
    ledger = ledger_with(rules=[Rule("refund", replay_for_s=3600)], budgets=BUDGETS)
    ledger.apply(ledger.config, by="ops")
    host = run_away(CALL, unguarded=True, replay_for_s=3600)
    host.comes_back()
    age(sql, 1, "call", "history")
    assert ledger.run(CALL, lambda: "the next") == "the next"
    prune(ledger, sql)
    assert balances(ledger) == booked(14)

    host.comes_back(times=2)

    assert balances(ledger) == booked(14)
    assert (ledger.calls()[0]["attempt"], ledger.calls()[0]["state"]) == (2, "succeeded")


def test_of_a_key_that_was_forgotten_nothing_is_left(ledger, sql, run_away) -> None:
    host = run_away(CALL)
    lapse(sql)
    ledger.run(CALL, lambda: "again")
    host.comes_back()
    prune(ledger, sql)
    kept = sql.execute("select event from spanledger.history where pruned_at is not null order by 1").fetchall()
    assert kept == [("late_success",), ("superseded",)]

    ledger.prune(by="ops", older_than_s=90 * 86400.0, forget_keys=True)

    assert sql.execute("select event from spanledger.history where key <> ''").fetchall() == []
    host.comes_back()
    assert balances(ledger) == booked(14)
