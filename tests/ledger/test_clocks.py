"""Clocks that are wrong by days: what counts is the database's, whatever it says."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from hosts import AS_US, running

from spanledger import Budget, Calls, Config, Ledger, Rule, ToolCall, Verdict
from spanledger.errors import OutcomeUnknown

FAKETIME = shutil.which("faketime")
pytestmark = pytest.mark.skipif(FAKETIME is None, reason="needs faketime")

shared_clock = pytest.mark.skipif(not AS_US, reason="the clock's semaphore belongs to whoever starts it")
CLOCK = ("LD_PRELOAD", "FAKETIME")
REFUND = ToolCall("refund", {"order_id": "o-1"}, workflow_id="w")
LEASE_S = 30.0
BUDGETS = (Budget("refunds", Calls(9)),)
ELSEWHEN = pytest.mark.parametrize("ahead", ["-30d", "+30d"])

BEGINS = """
import datetime, sys, time
from spanledger import Config, Ledger, Rule, ToolCall
rules = [Rule("refund", lease_s=float(sys.argv[2]), wait_timeout_s=0.2)]
with Ledger(config=Config(dsn=sys.argv[1], rules=rules)) as ledger:
    begun = ledger.begin(ToolCall("refund", {"order_id": "o-1"}, workflow_id="w"))
    print(begun.verdict.value, abs(begun.now_s - time.time()) > 86400, flush=True)
    if len(sys.argv) > 3:
        print(ledger.settle(begun, "done"))
"""


def clock(ahead: str) -> dict[str, str]:
    """What makes a clock wrong; the program of that name would stay between a test and its server."""
    said = subprocess.check_output([str(FAKETIME), "-f", ahead, "env"], text=True).splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in said) if name in CLOCK}


def elsewhen(ahead: str, *arguments: str) -> list[str]:
    """What a program says whose clock is wrong."""
    command = [str(FAKETIME), "-f", ahead, sys.executable, "-c", BEGINS, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()


@ELSEWHEN
def test_a_client_whose_clock_is_wrong_claims_for_as_long_as_anybody(dsn, ahead, sql: psycopg.Connection) -> None:
    assert elsewhen(ahead, dsn, str(LEASE_S)) == ["run", "True"]

    (left_s,) = sql.execute(
        "select extract(epoch from lease_until - clock_timestamp()) from spanledger.call"
    ).fetchone()
    assert 0 < left_s <= LEASE_S
    with Ledger(dsn) as ledger:
        assert ledger.begin(REFUND).verdict is Verdict.IN_PROGRESS


@ELSEWHEN
def test_a_client_whose_clock_is_wrong_is_told_of_a_lease_as_it_is(dsn, ahead, sql: psycopg.Connection) -> None:
    rules = [Rule("refund", lease_s=LEASE_S)]
    with Ledger(config=Config(dsn=dsn, rules=rules, budgets=BUDGETS)) as ledger:
        begun = ledger.begin(REFUND)
        assert elsewhen(ahead, dsn, str(LEASE_S)) == ["in_progress", "True"]
        assert ledger.settle(begun, "done")
        assert elsewhen(ahead, dsn, str(LEASE_S)) == ["replay", "True"]


@ELSEWHEN
def test_what_a_client_whose_clock_is_wrong_has_done_is_recorded_when_it_was_done(dsn, ahead, sql) -> None:
    assert elsewhen(ahead, dsn, str(LEASE_S), "settles") == ["run", "True", "True"]

    (age_s,) = sql.execute("select extract(epoch from clock_timestamp() - ended_at) from spanledger.call").fetchone()
    assert 0 <= age_s < 60
    again = Config(dsn=dsn, rules=[Rule("refund", replay_for_s=3600)])
    with Ledger(config=again) as ledger:
        assert ledger.run(REFUND, lambda: pytest.fail("it ran")) == "done"


@shared_clock
@ELSEWHEN
def test_a_server_whose_clock_is_wrong_is_right(tmp_path: Path, ahead: str) -> None:
    with running(tmp_path / "server") as server:
        server.stop("fast")
        server.start(clock(ahead))
        rules = [Rule("refund", lease_s=0.5, wait_timeout_s=5)]
        with Ledger(config=Config(dsn=server.dsn, rules=rules, budgets=BUDGETS)) as ledger:
            ledger.migrate()
            days_off = abs(float(server.execute("select extract(epoch from now())")) - time.time()) / 86_400
            assert 29 < days_off < 31
            begun = ledger.begin(REFUND)
            time.sleep(1)  # kept alive by signs of life
            assert ledger.begin(REFUND).verdict is Verdict.IN_PROGRESS
            del begun
            with pytest.raises(OutcomeUnknown):
                ledger.run(REFUND, lambda: pytest.fail("it ran"))
            assert ledger.run(ToolCall("refund", {"order_id": "o-2"}, workflow_id="w"), lambda: "done") == "done"
            balance = ledger.budget("refunds")
            assert (balance.spent, balance.held) == (Calls(1), Calls(1))


@shared_clock
def test_a_server_whose_clock_jumps_ahead_makes_leases_end_and_no_effect_happen_twice(tmp_path: Path) -> None:
    rules = [Rule("refund", lease_s=LEASE_S)]
    with running(tmp_path / "server") as server, Ledger(config=Config(dsn=server.dsn, rules=rules)) as ledger:
        ledger.migrate()

        def handler() -> str:
            server.stop("fast")
            server.start(clock("+1d"))
            with Ledger(server.dsn) as other, pytest.raises(OutcomeUnknown):
                other.run(REFUND, lambda: pytest.fail("it ran"))
            return "done"

        assert ledger.run(REFUND, handler) == "done"
        assert ledger.run(REFUND, lambda: pytest.fail("it ran")) == "done"
