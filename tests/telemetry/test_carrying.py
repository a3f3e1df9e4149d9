"""The workflow on its way to other processes, and what comes from there: it is shown, and chooses nothing."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import baggage, trace

import spanledger
from spanledger import Config, Ledger, acting, tool, workflow
from spanledger.errors import NotAuthorized
from spanledger.placing import BAGGAGE_CHARS_MAX as CHARS_MAX
from spanledger.telemetry.carrying import caller, carried, carrier

HOSTILE = [
    "x" * 5_000_000,
    "spanledger.workflow.id=" + "x" * (CHARS_MAX + 1),
    "spanledger.workflow.id=a%0d%0aSet-Cookie:%20b",
    "spanledger.workflow.id=%1b%5b2J",
    "spanledger.workflow.id=%ff%fe%zz%",
    "spanledger.workflow.id",
    "=,;=,,\n\r\0=;",
    ",".join(f"k{n}=v" for n in range(2000)),
    "spanledger.workflow.id='; drop table spanledger.call; --",
    b"bytes",
    None,
    {"a": "mapping"},
]


@pytest.fixture
def refund(dsn: str) -> Any:
    """A guarded function, on this test's database."""
    spanledger.instrument(Config(dsn=dsn), libraries=[])
    return tool("refund")(lambda order_id: order_id)


def test_a_workflow_goes_along_with_the_trace_and_is_shown_where_it_arrives(spans):
    with workflow("order-1"):
        headers = carrier()
    assert set(headers) == {"traceparent", "baggage"}
    assert baggage.get_all() == {}

    with carried(headers):
        assert caller() == "order-1"
        with workflow("shipping-7"):
            assert caller() == "shipping-7"
    sender, receiver = spans.all("invoke_agent")
    assert receiver.parent.span_id == sender.context.span_id
    assert receiver.attributes["spanledger.workflow.caller"] == "order-1"
    assert "spanledger.workflow.caller" not in sender.attributes
    assert caller() is None


def test_baggage_chooses_neither_scope_nor_tenant_nor_actor(refund, ledger: Ledger):
    said = "spanledger.workflow.id=order-1,spanledger.tenant=acme,spanledger.actor=root,tenant=acme"
    with carried({"baggage": said, "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}):
        refund("o-1")
    with workflow("order-1"):
        refund("o-1")
    rows = ledger.calls()
    assert sorted(row["workflow_id"] for row in rows) == ["1" * 32, "order-1"]
    assert {(row["tenant"], row["actor"]) for row in rows} == {("default", None)}


def test_baggage_that_the_configuration_trusts_chooses_what_nothing_here_says(dsn, ledger_with, spans):
    spanledger.instrument(Config(dsn=dsn, trust_baggage=True), libraries=[])
    refund = tool("refund")(lambda order_id: order_id)
    said = "spanledger.workflow.id=order-1,spanledger.tenant=acme,spanledger.actor=u_42"
    with carried({"baggage": said}):
        refund("o-1")
        with workflow("order-2", tenant="umbrella", actor="u_1"):
            refund("o-2")
    rows = [row for name in ("acme", "umbrella") for row in ledger_with(tenant=name).calls()]
    assert [(row["workflow_id"], row["actor"]) for row in rows] == [("order-1", "u_42"), ("order-2", "u_1")]
    sources = [span.attributes["spanledger.workflow.source"] for span in spans.all("execute_tool refund")]
    assert sources == ["baggage", "given"]


@pytest.mark.parametrize("said", HOSTILE, ids=lambda said: repr(said)[:40])
def test_hostile_baggage_is_harmless(said, refund, ledger: Ledger, spans):
    with carried({"baggage": said, "traceparent": said, "tracestate": said}):
        with workflow("w"):
            assert refund("o-1") == "o-1"
        shown = caller()
    assert shown is None or (len(shown) <= CHARS_MAX and shown.isprintable())
    assert [(row["workflow_id"], row["state"]) for row in ledger.calls()] == [("w", "succeeded")]
    assert spans.one("invoke_agent").attributes.get("spanledger.workflow.caller") == shown


@pytest.mark.parametrize("said", [*filter(None, HOSTILE), "", 7, ["a", "b"]], ids=lambda said: repr(said)[:40])
def test_a_delegation_that_cannot_be_read_lets_nothing_be_done(said, refund, ledger: Ledger, spans):
    with carried({"Spanledger-Delegation": said}), workflow("w"), pytest.raises(NotAuthorized) as refused:
        refund("o-1")
    assert len(str(refused.value)) < 300
    assert refused.value.reason.startswith("the token")
    assert spans.one("execute_tool refund").attributes["spanledger.verdict"] == "unauthorized"
    assert ledger.calls() == []
    with workflow("w"):
        assert refund("o-1") == "o-1"
    spanledger.uninstrument()  # tells what is still to be told
    (entry,) = (row for row in ledger.timeline("w") if row["what"] == "refused")
    assert (entry["detail"]["error"], "the token" in entry["detail"]["reason"]) == ("NotAuthorized", True)


def test_a_delegation_that_is_sent_twice_says_nothing():
    both = {"spanledger-delegation": "a", "Spanledger-Delegation": "b"}
    with carried(both):
        assert acting.token() not in (None, "a", "b")
    with carried({"spanledger-delegation": None}):
        assert acting.token() is None
    assert acting.token() is None


@pytest.mark.parametrize("workflow_id", ["x" * 1000, "a\nb", "\ud800", "ünï ✓, =;%"])
def test_no_workflow_id_breaks_whoever_sends_headers(workflow_id):
    with workflow(workflow_id):
        headers = carrier()
    assert all(text.isascii() and text.isprintable() for text in headers.values())
    with carried(headers):
        assert caller() == (workflow_id if workflow_id.startswith("ü") else None)
    assert not trace.get_current_span().get_span_context().is_valid
