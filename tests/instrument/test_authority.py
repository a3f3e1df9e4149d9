"""Programs that ask whether something is permitted, on a real ledger."""

from __future__ import annotations

import asyncio
import logging

import pytest

import spanledger
from spanledger import Config, Grant, Ledger, Money, Rule, over, workflow
from spanledger.errors import ConfigError, LedgerUnavailable, NotAuthorized
from spanledger.instrument import authority


@pytest.fixture
def governed(dsn):
    """A process that is instrumented."""
    spanledger.instrument(Config(dsn=dsn, agent="support"), libraries=[])
    with Ledger(config=Config(dsn=dsn)) as ledger:
        yield ledger
    spanledger.uninstrument()


def test_who_asks_and_for_whom_is_what_is_around_the_code(governed, spans):
    governed.grant(Grant("payments:refund", agent="support", actor="u_42"), by="ops")
    with workflow("order-1", actor="u_42"):
        given = spanledger.authorize("payments:refund", Money(10, "EUR"))
        refused = spanledger.authorize("payments:payout")
    outside = spanledger.authorize("payments:refund")

    assert (given.allowed, given.grant, given.version) == (True, "payments:refund to agent support for u_42", 1)
    assert (refused.allowed, refused.reason, outside.allowed) == (False, "nobody has granted it", False)
    (span,) = spans.all()
    assert [(e.name, e.attributes["spanledger.permission"], e.attributes["spanledger.permission.allowed"])
            for e in span.events] == [
        ("spanledger.permission", "payments:refund", True),
        ("spanledger.permission", "payments:payout", False),
    ]  # fmt: skip
    assert span.events[1].attributes["spanledger.verdict.reason"] == "nobody has granted it"


def test_ensure_authorized_raises_what_a_call_would(governed):
    governed.grant(Grant("mail:*"), by="ops")
    assert spanledger.ensure_authorized("mail:send").grant == "mail:*"
    with pytest.raises(NotAuthorized, match="not permitted: 'payments:refund': nobody has granted it") as refused:
        spanledger.ensure_authorized("payments:refund")
    assert refused.value.permission == "payments:refund"


def test_ensure_authorized_does_not_pass_over_a_persons_approval(governed):
    governed.grant(Grant("payments:refund", approval=over(Money(100, "EUR"))), by="ops")
    assert spanledger.ensure_authorized("payments:refund", Money(100, "EUR"))
    with pytest.raises(NotAuthorized, match="a person has to approve each call"):
        spanledger.ensure_authorized("payments:refund", Money(101, "EUR"))


def test_what_is_asked_beside_a_permission_is_for_people_and_without_what_rules_redact(dsn, spans):
    spanledger.instrument(Config(dsn=dsn, rules=[Rule("refund", redact=("iban",))]), libraries=[])
    with workflow("order-1", actor="u_42"):
        refused = spanledger.authorize("payments:refund", Money(10, "EUR"), order="o-1", iban="DE02")
    with pytest.raises(ConfigError, match="at most 4096 bytes"):
        spanledger.authorize("payments:refund", note="x" * 4096)
    spanledger.uninstrument()

    with Ledger(config=Config(dsn=dsn)) as ledger:
        (row,) = (row for row in ledger.timeline("order-1") if row["what"] == "not_authorized")
        assert (row["detail"]["context"], row["actor"]) == ('{"order": "o-1", "iban": "[redacted]"}', "u_42")
        ledger.erase(workflow_id="order-1", by="ops")
        (row,) = (row for row in ledger.timeline("order-1") if row["what"] == "not_authorized")
        assert "context" not in row["detail"]
    assert not refused
    assert "o-1" not in str([span.attributes for span in spans.all()])


def test_in_shadow_what_is_not_granted_goes_on_and_is_said(dsn, caplog):
    spanledger.instrument(Config(dsn=dsn, agent="support", mode="shadow"), libraries=[])
    answer = spanledger.ensure_authorized("payments:refund")
    spanledger.uninstrument()

    assert (answer.allowed, answer.reason) == (False, "nobody has granted it")
    assert "shadow: payments:refund goes on; enforced, it would be refused: nobody has granted it" in caplog.text


def test_has_permission_answers_from_what_it_knows(governed, monkeypatch):
    assert not spanledger.has_permission("payments:refund")
    governed.grant(Grant("payments:*", agent="support"), by="ops")
    assert not spanledger.has_permission("payments:refund")

    monkeypatch.setattr(authority, "KNOWN_FOR_S", -1.0)
    assert spanledger.has_permission("payments:refund")
    governed.grant(Grant("payments:refund", allowed=False), by="ops")
    assert not spanledger.has_permission("payments:refund")
    assert spanledger.has_permission("payments:payout")


def test_what_one_ledger_permitted_is_not_known_of_the_next(governed, empty_dsn):
    governed.grant(Grant("payments:*"), by="ops")
    assert spanledger.has_permission("payments:refund")
    with Ledger(config=Config(dsn=empty_dsn)) as other:
        other.migrate()
    spanledger.instrument(Config(dsn=empty_dsn, agent="support"), libraries=[])
    assert not spanledger.has_permission("payments:refund")


def test_in_a_loop_a_thread_asks_with_what_is_around_the_code(governed):
    governed.grant(Grant("payments:refund", actor="u_42"), by="ops")

    async def ask():
        async with workflow("order-1", actor="u_42"):
            return await asyncio.to_thread(spanledger.authorize, "payments:refund")

    assert asyncio.run(ask())


def test_where_the_ledger_does_not_answer_nothing_is_permitted(caplog):
    spanledger.instrument(Config(dsn="postgresql://nobody@127.0.0.1:1/none"), libraries=[])
    try:
        with pytest.raises(LedgerUnavailable):
            spanledger.authorize("payments:refund")
        with caplog.at_level(logging.WARNING, "spanledger"):
            assert not spanledger.has_permission("payments:refund")
    finally:
        spanledger.uninstrument()
    assert "whether payments:refund is granted is not known" in caplog.text


def test_in_mode_off_everything_is(monkeypatch):
    spanledger.instrument(Config(mode="off"))
    try:
        assert spanledger.ensure_authorized("payments:refund")
        assert spanledger.has_permission("payments:refund")
    finally:
        spanledger.uninstrument()


@pytest.mark.parametrize("asked", [("payments:*",), ("",), (None,), ("payments:refund", 10.0)])
def test_what_cannot_be_asked_is_said(governed, asked):
    with pytest.raises(ConfigError):
        spanledger.authorize(*asked)
