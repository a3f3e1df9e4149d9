"""Spans of a tracer that somebody patched past the gate are decided and settled by the processor."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
from hand_written import BY_ARGUMENTS, ENDS, NAME, Exporting, attributes, raising, state_of
from opentelemetry.sdk.trace import Tracer
from opentelemetry.trace import StatusCode

import spanledger
from spanledger import (
    Config,
    GuardrailSpanProcessor,
    Rule,
    errors,
    workflow,
)
from spanledger.telemetry import instruments, processor, spans


def patched(tracer: Tracer) -> None:
    """Begin the tracer's spans in a way of its own, as some vendors do."""
    tracer.start_span = functools.partial(Tracer.start_span.__wrapped__, tracer)


@pytest.fixture
def vendor(dsn: str, sdk: Exporting) -> Iterator[Exporting]:
    sdk.provider.add_span_processor(GuardrailSpanProcessor(Config(dsn=dsn, rules=[BY_ARGUMENTS])))
    patched(sdk.tracer)
    with workflow("w"):
        yield sdk


def test_a_processor_decides_and_settles_what_does_not_come_through_the_gate(vendor, ledger):
    with vendor.tracer.start_as_current_span(NAME, attributes=attributes()) as span:
        assert type(span) is not spans.GuardedSpan
        span.set_attribute("gen_ai.tool.call.result", '{"refund": 7}')
    with (
        pytest.raises(errors.CallReplayed) as caught,
        vendor.tracer.start_as_current_span(NAME, attributes=attributes()),
    ):
        pytest.fail("must not run")
    assert caught.value.result == {"refund": 7}
    assert state_of(ledger) == "succeeded"
    assert [span.attributes["spanledger.verdict"] for span in vendor.spans()] == ["run", "replay"]


@pytest.mark.parametrize(("error", "state"), ENDS, ids=[type(error).__name__ for error, _ in ENDS])
def test_there_too_a_span_left_by_an_exception_is_no_success(error, state, vendor, ledger):
    with raising(error), vendor.tracer.start_as_current_span(NAME, attributes=attributes()):
        raise error
    assert state_of(ledger) == state


@pytest.mark.parametrize(("code", "state"), [(StatusCode.ERROR, "failed"), (StatusCode.OK, "succeeded")])
def test_there_too_the_status_says_how_it_ended(code, state, vendor, ledger):
    span = vendor.tracer.start_span(NAME, attributes=attributes())
    span.set_status(code)
    span.end()
    assert state_of(ledger) == state


def test_there_too_an_exception_handled_around_a_span_is_not_its_own(vendor, ledger):
    try:
        raise TimeoutError
    except TimeoutError:
        with vendor.tracer.start_as_current_span(NAME, attributes=attributes()):
            pass
    assert state_of(ledger) == "succeeded"


def test_there_too_our_own_spans_and_others_are_left_alone(vendor, dsn, ledger, caplog):
    @spanledger.tool
    def refund(order_id: str) -> str:
        with vendor.tracer.start_as_current_span(NAME, attributes=attributes(order_id)):
            return "done"

    spanledger.instrument(Config(dsn=dsn, rules=[BY_ARGUMENTS]), libraries=[])
    assert refund("o-1") == "done"
    with vendor.tracer.start_as_current_span("chat"):
        pass
    assert state_of(ledger) == "succeeded"
    assert "ended span" not in caplog.text


def test_spans_that_never_end_do_not_pile_up(dsn, sdk, ledger, monkeypatch, measured, caplog):
    monkeypatch.setattr(processor, "OPEN_SPANS_MAX", 2)
    decider = GuardrailSpanProcessor(Config(dsn=dsn))
    sdk.provider.add_span_processor(decider)
    patched(sdk.tracer)
    spans = [sdk.tracer.start_span(NAME, attributes=attributes()) for _ in range(4)]
    assert len(decider._open) == 2
    for span in spans:
        span.end()
    assert decider._open == {}
    assert [row["state"] for row in ledger.calls()] == ["succeeded"] * 2 + ["in_flight"] * 2
    assert [point.value for _, point in measured.points()[instruments.SPANS_FORGOTTEN]] == [2]
    assert caplog.text.count("more than 2 guarded spans are open: how 'refund' ends is not waited for any more") == 2


def test_what_its_rule_redacts_cannot_be_kept_off_such_a_span_so_it_does_not_run(dsn, sdk):
    redacting = Config(dsn=dsn, rules=[Rule("refund", redact=["order_id"])])
    sdk.provider.add_span_processor(GuardrailSpanProcessor(redacting))
    patched(sdk.tracer)

    with (
        pytest.raises(errors.WrapMissing, match="whose start_span is not patched"),
        sdk.tracer.start_as_current_span(NAME, attributes=attributes("canary")),
    ):
        pytest.fail("must not run")
    assert sdk.spans() == []
