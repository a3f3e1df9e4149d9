"""Hand-written spans whose call a person has to allow."""

from __future__ import annotations

import asyncio
import time

import pytest
from hand_written import NAME, attributes
from opentelemetry.trace import StatusCode

import spanledger
from spanledger import Rule, Switch, errors, workflow

ASKED = Rule("refund", identity="arguments", approval=True, wait_timeout_s=30)


@pytest.fixture
def pending(instrument, ledger, tracer):
    """Open a span on a running loop; what it raises, and how long that took."""
    instrument(rules=[ASKED])

    async def open_span():
        with workflow("w"):
            begun_s = time.monotonic()
            with (
                pytest.raises(errors.ApprovalPending) as caught,
                tracer.start_as_current_span(NAME, attributes=attributes()),
            ):
                pytest.fail("must not run")
            return caught.value, time.monotonic() - begun_s

    return lambda: asyncio.run(open_span())


def test_on_a_running_loop_a_span_never_waits_for_a_person(pending, sdk):
    error, took_s = pending()

    assert took_s < 15, "it would have waited for thirty seconds"
    (span,) = sdk.spans()
    assert span.attributes["spanledger.approval.id"] == error.approval_id
    assert span.attributes["spanledger.verdict"] == "awaiting_approval"
    assert span.end_time is not None


def test_when_a_person_has_said_yes_the_span_runs_once(pending, ledger, tracer):
    error, _ = pending()
    assert ledger.approve(error.approval_id, by="ops")

    with workflow("w"):
        with tracer.start_as_current_span(NAME, attributes=attributes()) as span:
            span.set_attribute("gen_ai.tool.call.result", "paid")
        with pytest.raises(errors.CallReplayed), tracer.start_as_current_span(NAME, attributes=attributes()):
            pytest.fail("must not run")
    assert span.attributes["spanledger.approval.id"] == error.approval_id
    assert [approval.state for approval in ledger.approvals(state=None)] == ["consumed"]


def interrupted(_: object) -> None:
    raise KeyboardInterrupt


def test_a_span_that_is_interrupted_while_it_waits_is_exported_with_its_call_and_has_not_run(
    instrument, ledger, sdk, tracer
):
    instrument(rules=[ASKED], on_approval_needed=interrupted)

    with (
        workflow("w"),
        pytest.raises(KeyboardInterrupt),
        tracer.start_as_current_span(NAME, attributes=attributes()),
    ):
        pytest.fail("must not run")
    (span,), (request,) = sdk.spans(), ledger.approvals()
    assert span.attributes["spanledger.call.key"] == request.key
    assert span.attributes["error.type"] == "KeyboardInterrupt"
    assert (span.status.status_code, request.state) == (StatusCode.UNSET, "pending")


def test_so_is_a_tool(instrument, ledger, spans):
    instrument(rules=[ASKED], on_approval_needed=interrupted)

    with workflow("w"), pytest.raises(KeyboardInterrupt):
        spanledger.tool("refund")(lambda order_id: pytest.fail("must not run"))("o-1")

    (request,) = ledger.approvals()
    attributes = spans.one("execute_tool refund").attributes
    assert attributes["spanledger.call.key"] == request.key
    assert attributes["error.type"] == "KeyboardInterrupt"


def test_arguments_that_a_span_does_not_show_can_be_allowed_by_nobody(instrument, ledger, tracer):
    instrument(rules=[Rule("refund", approval=True, wait_timeout_s=0)])
    hidden = {name: value for name, value in attributes().items() if not name.endswith("arguments")}

    with (
        workflow("w"),
        pytest.raises(errors.NotAuthorized, match="nobody can approve arguments that it does not show"),
        tracer.start_as_current_span(NAME, attributes=hidden),
    ):
        pytest.fail("must not run")
    assert ledger.approvals(state=None) == []


def test_a_span_of_a_stopped_tool_does_not_run(instrument, tracer):
    instrument(rules=[], switches=[Switch("ref*", allowed=False, reason="the bank is down")])

    with (
        pytest.raises(errors.NotAuthorized, match="the bank is down"),
        tracer.start_as_current_span(NAME, attributes=attributes()),
    ):
        pytest.fail("must not run")
