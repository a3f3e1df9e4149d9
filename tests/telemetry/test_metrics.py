"""Metrics and events count every call, whatever becomes of its span."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hand_written import Exporting
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from tests.measured import Measured, by

import spanledger
from spanledger import Budget, Calls, Config, Money, Rule, workflow
from spanledger.errors import (
    ApprovalPending,
    BudgetExceeded,
    CallReplayed,
    OutcomeUnknown,
    SpanledgerError,
    Undescribable,
)
from spanledger.telemetry import instruments, semconv
from spanledger.telemetry.metrics import NAMES_MAX, OTHER

BY_ARGUMENTS = Rule("*", identity="arguments", wait_timeout_s=0)
ERRORS = {911: TimeoutError(), 912: ValueError("no")}
UNREACHABLE = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
def guarded(dsn: str, measured: Measured) -> Iterator[Callable[..., None]]:
    """Guard this process, with the given fields of `Config`."""

    def guard(**fields: Any) -> None:
        spanledger.instrument(Config(**{"dsn": dsn, "rules": [BY_ARGUMENTS]} | fields), libraries=[])

    with workflow("w"):
        yield guard


@spanledger.tool("pay", reserve=lambda arguments: Money(arguments["cents"], "EUR") if arguments["cents"] else None)
def pay(cents: int) -> str:
    if cents in ERRORS:
        raise ERRORS[cents]
    return "paid"


@spanledger.tool("look")
def look(what: str) -> str:
    return what


def test_calls_are_counted_by_their_verdict_and_replays_by_what_they_save(guarded: Any, measured: Measured) -> None:
    guarded(budgets=[Budget("all", Money(20, "EUR"))])
    pay(10)
    pay(10)
    with pytest.raises(BudgetExceeded):
        pay(11)

    points = measured.points()
    assert by(points[instruments.CALLS], semconv.VERDICT) == {"run": 1, "replay": 1, "budget_exceeded": 1}
    assert {frozenset(labels) for labels, _ in points[instruments.CALLS]} == {
        frozenset((semconv.OPERATION_NAME, semconv.TOOL_NAME, semconv.VERDICT))
    }
    ((labels, saved),) = points[instruments.SAVED]
    assert (labels[semconv.UNIT], saved.value) == ("EUR", 10.0)
    assert by(points[instruments.OUTCOMES], semconv.OUTCOME) == {"succeeded": 1}


def test_a_call_is_counted_whatever_becomes_of_its_span(guarded: Any, measured: Measured) -> None:
    guarded(budgets=[Budget("all", Calls(2))])
    tracers = [Exporting(ALWAYS_OFF).tracer, trace.NoOpTracer(), Exporting().tracer]
    for i, tracer in enumerate(tracers):
        attributes = {semconv.OPERATION_NAME: "execute_tool", semconv.TOOL_CALL_ARGUMENTS: f'{{"n": {i}}}'}
        with suppress(BudgetExceeded), tracer.start_as_current_span("execute_tool refund", attributes=attributes):
            pass

    points = measured.points()
    assert by(points[instruments.CALLS], semconv.VERDICT) == {"run": 2, "budget_exceeded": 1}
    assert by(points[instruments.OUTCOMES], semconv.OUTCOME) == {"succeeded": 2}
    ((labels, duration),) = points[instruments.TOOL_DURATION]
    assert labels == {semconv.OPERATION_NAME: "execute_tool", semconv.TOOL_NAME: "refund"}
    assert duration.count == 2


def test_a_refusal_is_an_event_on_the_span_of_its_call(guarded: Any, measured: Measured) -> None:
    guarded(budgets=[Budget("all", Money(1, "EUR"))])
    with trace.get_tracer("agent").start_as_current_span("turn"), pytest.raises(BudgetExceeded) as caught:
        pay(2)

    (event,) = measured.events()
    assert event.event_name == semconv.EVENT_REFUSED
    assert event.severity_text == "WARN"
    assert event.attributes[semconv.VERDICT] == "budget_exceeded"
    assert event.attributes[semconv.REASON] == str(caught.value)
    assert event.attributes[semconv.WORKFLOW_ID] == "w"
    assert event.attributes[semconv.CALL_KEY] == caught.value.key
    assert event.body == f"pay was not run: {caught.value}"


def test_the_event_of_a_refusal_names_the_span_that_shows_it(guarded: Any, measured: Measured, spans: Any) -> None:
    guarded(budgets=[Budget("all", Money(1, "EUR"))])
    with pytest.raises(BudgetExceeded):
        pay(2)

    (event,) = measured.events()
    context = spans.one("execute_tool pay").context
    assert (event.trace_id, event.span_id) == (context.trace_id, context.span_id)


def test_a_call_that_is_refused_before_the_ledger_is_asked_is_counted_as_well(guarded: Any, measured: Measured) -> None:
    guarded(rules=[Rule("look", fields=["from"])])

    with pytest.raises(Undescribable):
        look("here")

    points = measured.points()
    assert by(points[instruments.CALLS], semconv.VERDICT) == {"refused": 1}
    assert instruments.LEDGER_DURATION not in points
    assert [event.attributes[semconv.ERROR_TYPE] for event in measured.events()] == ["Undescribable"]


def test_an_outcome_that_nobody_knows_is_counted_and_told(guarded: Any, measured: Measured) -> None:
    guarded()
    with pytest.raises(TimeoutError):
        pay(911)
    with pytest.raises(ValueError, match="no"):
        pay(912)

    points = measured.points()
    assert by(points[instruments.OUTCOMES], semconv.OUTCOME) == {"unknown": 1, "failed": 1}
    errors = {labels.get(semconv.ERROR_TYPE) for labels, _ in points[instruments.TOOL_DURATION]}
    assert errors == {"TimeoutError", "ValueError"}
    (event,) = measured.events()
    assert event.event_name == semconv.EVENT_OUTCOME_UNKNOWN

    with pytest.raises(OutcomeUnknown):
        pay(911)
    assert by(measured.points()[instruments.CALLS], semconv.VERDICT) == {"outcome_unknown": 1}


def test_whoever_waits_for_a_person_is_counted_once(guarded: Any, measured: Measured) -> None:
    guarded(rules=[Rule("pay", approval=True, wait_timeout_s=0.2)])
    with pytest.raises(ApprovalPending):
        pay(1)

    assert by(measured.points()[instruments.CALLS], semconv.VERDICT) == {"awaiting_approval": 1}


def test_coroutines_and_spans_on_a_loop_are_counted_alike(guarded: Any, measured: Measured) -> None:
    guarded()

    @spanledger.tool("send")
    async def send(to: str) -> str:
        return to

    async def both() -> None:
        with workflow("w"):
            await send("ada")
            await send("ada")
        attributes = {semconv.OPERATION_NAME: "execute_tool", semconv.TOOL_CALL_ARGUMENTS: "{}"}
        with trace.NoOpTracer().start_as_current_span("execute_tool refund", attributes=attributes):
            pass

    asyncio.run(both())
    spanledger.uninstrument()  # what is queued is told

    points = measured.points()
    assert by([p for p in points[instruments.CALLS] if p[0][semconv.TOOL_NAME] == "send"], semconv.VERDICT) == {
        "run": 1,
        "replay": 1,
    }
    outcomes = {labels[semconv.TOOL_NAME]: point.value for labels, point in points[instruments.OUTCOMES]}
    assert outcomes == {"send": 1, "refund": 1}


def test_how_long_the_ledger_takes_is_measured_by_what_it_is_asked(guarded: Any, measured: Measured) -> None:
    guarded()
    look("here")

    counts = {
        labels[semconv.LEDGER_FUNCTION]: point.count for labels, point in measured.points()[instruments.LEDGER_DURATION]
    }
    assert counts == {"begin": 1, "settle": 1}


def test_a_call_that_runs_without_the_ledger_is_counted_as_such(guarded: Any, measured: Measured) -> None:
    guarded(dsn=UNREACHABLE, rules=[Rule("look", on_ledger_down="continue"), Rule("pay")], ledger_timeout_s=2)
    assert look("here") == "here"
    with pytest.raises(SpanledgerError):
        pay(1)

    points = measured.points()
    assert by(points[instruments.UNGUARDED], semconv.TOOL_NAME) == {"look": 1}
    assert by(points[instruments.OUTCOMES], semconv.OUTCOME) == {"spooled": 1}
    assert by(points[instruments.CALLS], semconv.VERDICT) == {"run": 1, "ledger_unavailable": 1}
    assert {labels.get(semconv.ERROR_TYPE) for labels, _ in points[instruments.LEDGER_DURATION]} == {
        "LedgerUnavailable"
    }


def test_names_that_a_program_makes_up_do_not_make_series_without_end(guarded: Any, measured: Measured) -> None:
    from spanledger.telemetry import metrics as ours

    ours._names.clear()
    names = {ours.bounded(f"tool_{i}") for i in range(NAMES_MAX + 10)}
    assert len(names) == NAMES_MAX + 1
    assert OTHER in names
    assert ours.bounded("tool_0") == "tool_0"
    ours._names.clear()


def test_a_replayed_span_counts_as_a_replay(guarded: Any, measured: Measured) -> None:
    guarded()
    attributes = {semconv.OPERATION_NAME: "execute_tool", semconv.TOOL_CALL_ARGUMENTS: "{}"}
    tracer = Exporting().tracer
    for _ in range(2):
        with suppress(CallReplayed), tracer.start_as_current_span("execute_tool refund", attributes=attributes) as span:
            span.set_attribute(semconv.TOOL_CALL_RESULT, "1")

    assert by(measured.points()[instruments.CALLS], semconv.VERDICT) == {"run": 1, "replay": 1}
