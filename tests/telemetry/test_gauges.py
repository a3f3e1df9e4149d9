"""How the ledger stands is shown with the metrics, and nobody waits for it."""

from __future__ import annotations

import pytest
from tests.measured import Measured

import spanledger
from spanledger import Budget, Config, Money, Rule, workflow
from spanledger import _setup as setup
from spanledger.errors import ApprovalPending
from spanledger.telemetry import gauges, instruments, semconv

BUDGETS = [Budget("refunds", Money(500, "EUR"), match="pay")]
RULES = [Rule("ask", approval=True, wait_timeout_s=0), Rule("*", wait_timeout_s=0)]
READ_MAX_S = 30.0


@spanledger.tool("pay", reserve=lambda arguments: Money(arguments["euros"], "EUR"))
def pay(euros: int) -> str:
    if euros == 13:
        raise TimeoutError
    return "paid"


@spanledger.tool("ask")
def ask() -> None: ...


def shown(measured: Measured) -> dict[str, list]:
    """What is collected once the ledger has been read."""
    measured.points()
    assert gauges.refreshed(READ_MAX_S)
    return measured.points()


@pytest.fixture
def guarded(dsn, measured):
    spanledger.instrument(Config(dsn=dsn, rules=RULES, budgets=BUDGETS), libraries=[])
    with workflow("w"):
        yield


def test_budgets_approvals_and_unknown_outcomes_are_shown(guarded, measured):
    pay(40)
    with pytest.raises(TimeoutError):
        pay(13)
    with pytest.raises(ApprovalPending):
        ask()

    points = shown(measured)
    labels = {semconv.BUDGET_NAME: "refunds", semconv.UNIT: "EUR"}
    figures = {instruments.BUDGET_LIMIT: 500.0, instruments.BUDGET_SPENT: 40.0, instruments.BUDGET_HELD: 13.0}
    for name, value in figures.items():
        assert [(seen, point.value) for seen, point in points[name]] == [(labels, value)]
    values = {name: points[name][0][1].value for name in (instruments.APPROVALS_PENDING, instruments.CALLS_UNKNOWN)}
    assert values == {instruments.APPROVALS_PENDING: 1, instruments.CALLS_UNKNOWN: 1}
    assert points[instruments.APPROVALS_AGE][0][1].value >= 0
    assert points[instruments.SPOOL_ENTRIES][0][1].value == 0
    assert instruments.SPOOL_AGE not in points


def test_whoever_collects_does_not_wait_for_the_ledger(guarded, measured, sql):
    pay(1)
    # A reader of the budgets waits behind this lock.
    with sql.transaction():
        sql.execute("lock table spanledger.budget in access exclusive mode")
        assert instruments.BUDGET_LIMIT not in measured.points()
        assert instruments.BUDGET_LIMIT not in measured.points()
    assert gauges.refreshed(READ_MAX_S)
    assert instruments.BUDGET_LIMIT in measured.points()


def test_a_process_that_has_not_used_the_ledger_does_not_open_it_for_figures(measured, tmp_path):
    spanledger.instrument(Config(dsn="postgresql://nobody@127.0.0.1:1/none"), libraries=[])

    points = shown(measured)
    assert instruments.SPOOL_ENTRIES not in points
    assert instruments.CALLS_UNKNOWN not in points


def test_figures_of_a_ledger_that_is_closed_are_shown_no_longer(guarded, measured):
    pay(1)
    assert instruments.BUDGET_LIMIT in shown(measured)
    spanledger.uninstrument()

    assert instruments.BUDGET_LIMIT not in measured.points()


def test_the_ledger_is_not_asked_again_before_its_time(guarded, measured, sql):
    pay(1)
    assert shown(measured)[instruments.BUDGET_SPENT][0][1].value == 1.0
    pay(2)

    assert shown(measured)[instruments.BUDGET_SPENT][0][1].value == 1.0


def test_a_role_that_may_not_ask_shows_none_and_is_not_disturbed(measured, dsn, sql, caplog):
    spanledger.instrument(Config(dsn=dsn, rules=RULES), libraries=[])
    with workflow("w"):
        assert pay(1) == "paid"
    sql.execute("drop function spanledger_v1.gauges(text)")  # as in a ledger older than the program
    with caplog.at_level("INFO", logger="spanledger.telemetry"):
        points = shown(measured)

    assert instruments.CALLS_UNKNOWN not in points
    assert instruments.SPOOL_ENTRIES in points
    assert "cannot be read for metrics" in caplog.text


def test_entries_of_the_decision_trace_that_are_lost_are_counted_where_the_ledger_never_answered(measured):
    spanledger.instrument(Config(dsn="host=127.0.0.1 port=1 dbname=none", ledger_timeout_s=1.0), libraries=[])
    connected = setup._installed.connected
    assert lost_of(measured) == 0

    with workflow("w"):
        pass
    connected.trail.close()

    assert lost_of(measured) == 2  # that it began, and how it ended


def lost_of(measured: Measured) -> int:
    ((labels, point),) = measured.points()[instruments.TRAIL_LOST]
    assert labels == {}
    return point.value


def test_outcomes_that_the_ledger_will_never_take_are_shown(guarded, measured):
    pay(1)
    spool = setup._installed.connected.database.spooled()
    spool.path.mkdir(parents=True, exist_ok=True)
    (spool.path / "0-refused.json.aside").write_text("{}")

    assert [point.value for _, point in measured.points()[instruments.SPOOL_ASIDE]] == [1]
