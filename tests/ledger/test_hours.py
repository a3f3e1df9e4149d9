"""Grants that hold at some hours of the day only, on a real ledger and by its clock."""

from __future__ import annotations

import datetime as dt
import json

import psycopg
import pytest

import spanledger
from spanledger import Config, Delegation, Grant, Ledger, Rule, ToolCall, workflow
from spanledger.cli.grants import grant_text
from spanledger.errors import ConfigError, NotAuthorized
from spanledger.instrument import authority
from spanledger.ledger._replay import replayed

KEYS = ("k1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",)
REFUND = Rule("refund", permission="payments:refund")
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def now(sql: psycopg.Connection) -> dt.datetime:
    """The time of the ledger; an hour to either side is wider than any test is long."""
    return sql.execute("select clock_timestamp() at time zone 'UTC'").fetchone()[0]


def hours(begins: dt.datetime, ends: dt.datetime) -> str:
    return f"{begins:%H:%M}-{ends:%H:%M}"


def refund(order: str, agent: str = "support", **given) -> ToolCall:
    return ToolCall("refund", {"order": order}, workflow_id="w", agent=agent, **given)


def test_a_grant_lets_do_something_within_its_hours_alone_and_says_which(ledger_with, now):
    ledger = ledger_with(rules=[REFUND])
    ledger.grant(Grant("payments:*"), by="ops")
    ledger.grant(Grant("payments:refund", agent="support", hours=hours(now - HOUR, now + HOUR)), by="ops")
    assert ledger.run(refund("1"), lambda: "paid") == "paid"

    later = hours(now + HOUR, now + 2 * HOUR)
    ledger.grant(Grant("payments:refund", agent="support", hours=later), by="ops")

    # The broader grant would let it pass: what was narrowed stays so.
    with pytest.raises(NotAuthorized, match=f"payments:refund to agent support' decides: it holds only at {later} UTC"):
        ledger.run(refund("2"), lambda: pytest.fail("ran"))
    answer = ledger.authorize("payments:refund", agent="support")
    assert (answer.allowed, answer.hours, answer.version) == (False, later, 2)
    assert ledger.run(refund("2", agent="sales"), lambda: "paid") == "paid"
    row = next(row for row in ledger.grants() if row["agent"] == "support")
    assert row["spec"]["hours"] == later
    assert f", at {later} UTC" in grant_text(row)


def test_what_is_denied_at_some_hours_is_not_at_others(ledger_with, now):
    ledger = ledger_with(rules=[REFUND])
    ledger.grant(Grant("payments:*"), by="ops")
    ledger.grant(Grant("payments:refund", allowed=False, hours=hours(now + HOUR, now - HOUR)), by="ops")
    assert ledger.run(refund("1"), lambda: "paid") == "paid"

    ledger.grant(
        Grant("payments:refund", allowed=False, hours=hours(now - HOUR, now + HOUR), reason="the bank is closed"),
        by="ops",
    )
    with pytest.raises(NotAuthorized, match="the bank is closed"):
        ledger.run(refund("2"), lambda: pytest.fail("ran"))


def test_a_denial_that_does_not_hold_now_is_not_said_to_have_expired(ledger_with, now):
    ledger = ledger_with(rules=[REFUND])
    ledger.grant(Grant("payments:refund", allowed=False, hours=hours(now + HOUR, now + 2 * HOUR)), by="ops")
    with pytest.raises(NotAuthorized, match="nobody has granted it"):
        ledger.run(refund("1"), lambda: pytest.fail("ran"))


def test_what_was_delegated_holds_at_the_hours_of_what_it_comes_from(ledger_with, now):
    ledger = ledger_with(rules=[REFUND], delegation_keys=KEYS)
    ledger.grant(Grant("payments:*", agent="support", hours=hours(now - HOUR, now + HOUR)), by="ops")
    token = ledger.delegations.give(Delegation("billing", "payments:refund"), agent="support")
    assert ledger.run(refund("1", "billing", delegation=token), lambda: "paid") == "paid"
    # Its own hours are no denial: it acts by somebody else's authority.
    ledger.grant(Grant("payments:refund", agent="billing", hours=hours(now + HOUR, now + 2 * HOUR)), by="ops")
    assert ledger.run(refund("2", "billing", delegation=token), lambda: "paid") == "paid"

    ledger.grant(Grant("payments:*", agent="support", hours=hours(now + HOUR, now + 2 * HOUR)), by="ops")

    with pytest.raises(NotAuthorized, match="who delegated it, agent support, may not: it holds only at"):
        ledger.run(refund("3", "billing", delegation=token), lambda: pytest.fail("ran"))
    with pytest.raises(NotAuthorized, match="it holds only at"):
        ledger.delegations.give(Delegation("billing", "payments:refund"), agent="support")


def test_has_permission_tells_by_the_ledgers_clock_and_what_has_passed_since(dsn, now, monkeypatch):
    monkeypatch.setattr(authority, "KNOWN_FOR_S", 10 * 3600.0)
    spanledger.instrument(Config(dsn=dsn, agent="support"), libraries=[])
    with Ledger(config=Config(dsn=dsn)) as ledger:
        ledger.grant(Grant("payments:*", hours=hours(now - HOUR, now + HOUR)), by="ops")
        ledger.grant(Grant("mail", allowed=False, hours=hours(now - HOUR, now + HOUR)), by="ops")
        ledger.grant(Grant("*", agent="support"), by="ops")
    try:
        with workflow("w"):
            assert spanledger.has_permission("payments:refund")
            assert not spanledger.has_permission("mail")
            at_s = authority.time.monotonic()
            monkeypatch.setattr(authority.time, "monotonic", lambda: at_s + 2 * 3600)
            assert not spanledger.has_permission("payments:refund")
            assert spanledger.has_permission("mail")
    finally:
        spanledger.uninstrument()


def test_what_has_been_is_judged_by_the_hour_at_which_it_was(ledger_with, now):
    ledger = ledger_with(rules=[Rule("refund")])
    ledger.run(refund("1"), lambda: "paid")

    def judged(held: str) -> list[str | None]:
        config = Config(rules=[REFUND], grants=[Grant("payments:refund", hours=held)])
        return [one.reason for one in replayed(ledger._database, config, alone=True)]

    assert judged(hours(now - HOUR, now + HOUR)) == [None]
    (reason,) = judged(hours(now + HOUR, now + 2 * HOUR))
    assert "it holds only at" in reason


@pytest.mark.parametrize(
    "said", ["9:00-17:00", "09:00", "09:00-24:01", "09:00-09:00", "09:60-10:00", "24:00-09:00", 9, ""]
)
def test_hours_that_are_none_are_refused(said):
    with pytest.raises(ConfigError, match="hours are a text such as '09:00-17:00'"):
        Grant("payments:refund", hours=said)


def test_hours_that_cannot_be_read_are_not_written(sql):
    grants = {"grants": [{"permission": "payments:refund", "spec": {"allowed": True, "hours": "office"}}]}
    with pytest.raises(psycopg.DataError):
        sql.execute("select spanledger_v1.apply('t', %s::jsonb, 'ops')", [json.dumps(grants)])
