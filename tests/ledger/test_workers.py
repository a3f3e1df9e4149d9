"""Many threads and many processes on one ledger, and workers that die."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from workers import TIMEOUT_S, fork_and_run, found_at_the_bank, hang, refund_each, started, together

from spanledger import Budget, Calls, Config, Ledger, Money, Rule, ToolCall
from spanledger.core.call import Verdict
from spanledger.errors import BudgetExceeded, OutcomeUnknown
from spanledger.ledger._pools import CONNECTIONS_MAX

REFUND = ToolCall("refund", workflow_id="w")


def never() -> None:
    pytest.fail("it ran")


def test_two_threads_with_one_key_run_it_once_and_both_have_the_result(ledger: Ledger) -> None:
    running, release, ran = threading.Event(), threading.Event(), []

    def handler() -> dict:
        running.set()
        assert release.wait(TIMEOUT_S)
        ran.append(1)
        return {"id": "re_1"}

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ledger.run, REFUND, handler)
        assert running.wait(TIMEOUT_S)
        second = pool.submit(ledger.run, REFUND, handler)
        assert ledger.begin(REFUND).verdict is Verdict.IN_PROGRESS
        release.set()
        assert [first.result(), second.result()] == [{"id": "re_1"}] * 2
    assert ran == [1]


def test_a_waiter_takes_over_when_the_first_has_failed(ledger: Ledger) -> None:
    running, release = threading.Event(), threading.Event()

    def handler() -> None:
        running.set()
        assert release.wait(TIMEOUT_S)
        raise ValueError("no")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ledger.run, REFUND, handler)
        assert running.wait(TIMEOUT_S)
        second = pool.submit(ledger.run, REFUND, lambda: "second")
        release.set()
        assert isinstance(first.exception(), ValueError)
        assert second.result() == "second"


def test_many_threads_share_a_ledger_and_a_few_connections(ledger: Ledger, sql: psycopg.Connection) -> None:
    barrier = threading.Barrier(40)

    def worker(number: int) -> list[int]:
        barrier.wait(TIMEOUT_S)
        calls = [ToolCall("refund", {"number": number, "n": n % 3}, workflow_id="w") for n in range(6)]
        return [ledger.run(call, lambda: number) for call in calls]

    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(worker, range(40))) == [[number] * 6 for number in range(40)]
    mine = (
        "select count(*) from pg_stat_activity where application_name = 'spanledger' and datname = current_database()"
    )
    assert sql.execute(mine).fetchone()[0] <= CONNECTIONS_MAX
    assert sql.execute("select count(*) from spanledger.call").fetchone() == (120,)


def test_a_thousand_calls_from_many_threads_spend_the_budget_to_the_cent(dsn: str) -> None:
    budgets = [Budget("eur", Money("5.00", "EUR")), Budget("count", Calls(10_000))]
    with Ledger(config=Config(dsn=dsn, budgets=budgets)) as ledger:

        def worker(number: int) -> int:
            admitted = 0
            for n in range(100):
                arguments = {"number": number, "n": n}
                call = ToolCall("refund", arguments, workflow_id="w", cost=Money("0.10", "EUR"))
                with contextlib.suppress(BudgetExceeded):
                    admitted += ledger.run(call, lambda: 1)
            return admitted

        with ThreadPoolExecutor(10) as pool:
            assert sum(pool.map(worker, range(10))) == 50
        assert ledger.budget("eur").spent == ledger.budget("eur").limit
        assert ledger.budget("count").spent == Calls(50)
        assert ledger.budget("count").held == Calls(0)


def test_of_eight_processes_with_the_same_keys_each_effect_happens_once(dsn: str, tmp_path) -> None:
    results = together(8, refund_each, dsn, str(tmp_path), 20)
    assert results == [results[0]] * 8
    done = {int(path.name): path.read_text() for path in tmp_path.iterdir()}
    assert results[0] == [f"{order} by {done[order]}" for order in range(20)]


def test_two_processes_with_one_key_run_it_once_and_both_have_the_result(dsn: str, tmp_path) -> None:
    one, other = together(2, refund_each, dsn, str(tmp_path), 1)
    assert one == other
    assert len(list(tmp_path.iterdir())) == 1


def test_a_killed_worker_leaves_the_outcome_unknown_after_its_lease_and_a_probe_finds_out(ledger_with, dsn) -> None:
    lease_s = 0.3
    worker, reader = started(hang, dsn, lease_s)
    assert reader.recv() == "running"
    worker.kill()
    worker.join(TIMEOUT_S)
    asking = ledger_with(rules=[Rule("refund", wait_timeout_s=5)])
    with pytest.raises(OutcomeUnknown, match="nobody knows whether it took effect"):
        asking.run(REFUND, never)
    probing = ledger_with(rules=[Rule("refund", probe=found_at_the_bank)])
    assert probing.run(REFUND, never) == "found at the bank"
    (event,) = [event for event in probing.history(probing.key(REFUND)) if event["event"] == "resolved"]
    assert event["by_name"] == "probe:workers:found_at_the_bank"


def test_a_killed_workers_call_runs_again_where_the_rule_allows_it(ledger_with, dsn: str) -> None:
    worker, reader = started(hang, dsn, 0.3)
    assert reader.recv() == "running"
    worker.kill()
    worker.join(TIMEOUT_S)
    ledger = ledger_with(rules=[Rule("refund", on_unknown="retry")])
    assert ledger.run(REFUND, lambda: "second") == "second"
    assert ledger.get(ledger.key(REFUND))["attempts"] == 2


def test_a_forked_child_has_connections_of_its_own(dsn: str) -> None:
    worker, reader = started(fork_and_run, dsn)
    assert reader.poll(TIMEOUT_S)
    assert reader.recv() == (["parent"] * 20, 0, "child")
    worker.join(TIMEOUT_S)
    assert worker.exitcode == 0
