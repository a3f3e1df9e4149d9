"""Workers that stand still for longer than their lease, signs of life included, and then go on as if nothing was."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from workers import TIMEOUT_S, started

from spanledger import AsyncLedger, Budget, Calls, Config, Ledger, Money, Resolution, Rule, ToolCall
from spanledger.errors import OutcomeUnknown

LEASE_S = 0.4
BUDGETS = (Budget("euros", Money("10", "EUR")), Budget("refunds", Calls(10)))


def refund() -> ToolCall:
    return ToolCall("refund", {"order": 1}, workflow_id="w", cost=Money("1", "EUR"))


def config_of(dsn: str, **rule: Any) -> Config:
    return Config(dsn=dsn, rules=[Rule("refund", lease_s=LEASE_S, wait_timeout_s=30, **rule)], budgets=BUDGETS)


def stand_still(writer: Any, dsn: str, go: str, error: type[Exception] | None) -> None:
    """Refund once; between the payment and its record, wait until told to go on."""
    with Ledger(config=config_of(dsn)) as ledger:
        try:
            writer.send(ledger.run(refund(), lambda: paid(writer, go, error)))
        except Exception as raised:
            writer.send(type(raised).__name__)


def stand_still_awaiting(writer: Any, dsn: str, go: str, error: type[Exception] | None) -> None:
    """As `stand_still`, in an event loop."""

    async def main() -> None:
        async with AsyncLedger(config=config_of(dsn)) as ledger:
            try:
                writer.send(await ledger.run(refund(), lambda: asyncio.to_thread(paid, writer, go, error)))
            except Exception as raised:
                writer.send(type(raised).__name__)

    asyncio.run(main())


def paid(writer: Any, go: str, error: type[Exception] | None) -> str:
    writer.send("paid")
    while not Path(go).exists():
        time.sleep(0.005)
    if error is not None:
        raise error("the bank took it back")
    return "first"


@contextmanager
def frozen(work: Any, dsn: str, go: Path, error: type[Exception] | None = None) -> Iterator[Any]:
    """A worker that has paid and does nothing, until `thaw` of it."""
    process, reader = started(work, dsn, str(go), error)
    assert reader.recv() == "paid"
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield lambda: thaw(process, reader, go)
    finally:
        process.kill()
        process.join(TIMEOUT_S)


def thaw(process: Any, reader: Any, go: Path) -> object:
    """Let a worker go on, and say what its caller was given."""
    go.touch()
    os.kill(process.pid, signal.SIGCONT)
    assert reader.poll(TIMEOUT_S)
    given = reader.recv()
    process.join(TIMEOUT_S)
    return given


def books(ledger: Ledger) -> tuple[str, Money, Money, int]:
    """State of the call, euros spent and held, and refunds counted."""
    (row,) = ledger.calls()
    euros = ledger.budget("euros")
    return row["state"], euros.spent, euros.held, ledger.budget("refunds").spent.count


def events(ledger: Ledger) -> list[str]:
    return [event["event"] for event in ledger.history(ledger.key(refund()))]


either_way = pytest.mark.parametrize("work", [stand_still, stand_still_awaiting])
ONE, TWO, NONE = Money("1", "EUR"), Money("2", "EUR"), Money("0", "EUR")


@either_way
def test_where_a_rule_retries_a_late_success_is_told_beside_the_newer_one_and_its_money_counts(dsn, tmp_path, work):
    with frozen(work, dsn, tmp_path / "go") as thaw_it, Ledger(config=config_of(dsn, on_unknown="retry")) as ledger:
        assert ledger.run(refund(), lambda: "second") == "second"

        assert thaw_it() == "first"  # its caller has what it did

        assert books(ledger) == ("succeeded", TWO, NONE, 2)
        assert ledger.run(refund(), lambda: pytest.fail("it ran")) == "second"
        assert events(ledger) == ["lease_over", "superseded", "late_success"]


def test_a_late_success_never_overwrites_a_newer_attempt_that_still_runs(dsn, tmp_path) -> None:
    config = config_of(dsn, on_unknown="retry")
    with frozen(stand_still, dsn, tmp_path / "go") as thaw_it, Ledger(config=config) as ledger:

        def second() -> str:
            assert thaw_it() == "first"
            (row,) = ledger.calls()
            assert (row["state"], row["attempt"]) == ("in_flight", 2)
            return "second"

        assert ledger.run(refund(), second) == "second"
        assert books(ledger) == ("succeeded", TWO, NONE, 2)
        assert ledger.run(refund(), lambda: pytest.fail("it ran")) == "second"


@either_way
def test_a_late_failure_takes_nothing_from_the_newer_attempt(dsn, tmp_path, work) -> None:
    config = config_of(dsn, on_unknown="retry")
    with frozen(work, dsn, tmp_path / "go", ValueError) as thaw_it, Ledger(config=config) as ledger:
        assert ledger.run(refund(), lambda: "second") == "second"

        assert thaw_it() == "ValueError"

        assert books(ledger) == ("succeeded", ONE, NONE, 1)
        assert events(ledger) == ["lease_over", "superseded", "late_failure"]


@either_way
def test_where_a_rule_asks_nobody_runs_it_and_the_late_success_is_the_truth(dsn, tmp_path, work) -> None:
    with frozen(work, dsn, tmp_path / "go") as thaw_it, Ledger(config=config_of(dsn)) as ledger:
        with pytest.raises(OutcomeUnknown):
            ledger.run(refund(), lambda: pytest.fail("it ran"))
        assert books(ledger) == ("unknown", NONE, ONE, 0)

        assert thaw_it() == "first"

        assert books(ledger) == ("succeeded", ONE, NONE, 1)
        assert ledger.run(refund(), lambda: pytest.fail("it ran")) == "first"


def found_paid(call: Any, key: str) -> Resolution:
    return Resolution("succeeded", "found at the bank")


def test_what_a_probe_found_stands_and_the_late_success_is_no_second_refund(dsn, tmp_path) -> None:
    config = config_of(dsn, probe=found_paid)
    with frozen(stand_still, dsn, tmp_path / "go") as thaw_it, Ledger(config=config) as ledger:
        assert ledger.run(refund(), lambda: pytest.fail("it ran")) == "found at the bank"

        assert thaw_it() == "first"

        assert books(ledger) == ("succeeded", ONE, NONE, 1)
        assert ledger.run(refund(), lambda: pytest.fail("it ran")) == "found at the bank"


def test_what_a_person_took_for_failed_and_was_not_is_never_run_again(dsn, tmp_path) -> None:
    with frozen(stand_still, dsn, tmp_path / "go") as thaw_it, Ledger(config=config_of(dsn)) as ledger:
        with pytest.raises(OutcomeUnknown):
            ledger.run(refund(), lambda: pytest.fail("it ran"))
        assert ledger.resolve(ledger.key(refund()), by="a person", outcome="failed")
        assert books(ledger) == ("failed", NONE, NONE, 0)

        assert thaw_it() == "first"

        assert books(ledger) == ("succeeded", ONE, NONE, 1)
        assert ledger.run(refund(), lambda: pytest.fail("it ran")) == "first"


def test_a_worker_that_froze_for_less_than_its_lease_has_lost_nothing(dsn, tmp_path, sql: psycopg.Connection) -> None:
    with frozen(stand_still, dsn, tmp_path / "go") as thaw_it, Ledger(config=config_of(dsn)) as ledger:
        sql.execute("update spanledger.call set lease_until = clock_timestamp() + interval '60 s'")

        assert thaw_it() == "first"

        assert books(ledger) == ("succeeded", ONE, NONE, 1)
        assert events(ledger) == []
