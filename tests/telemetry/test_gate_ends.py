"""How a hand-written span was left says how its call ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hand_written import ENDS, NAME, TRACERS, Exporting, attributes, raising, state_of
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import Status, StatusCode


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("tracer", [pytest.param(make, id=name) for name, make in TRACERS.items()])
@pytest.mark.parametrize(("error", "state"), ENDS, ids=[type(error).__name__ for error, _ in ENDS])
def test_a_span_left_by_an_exception_is_no_success(error, state, tracer, ledger):
    with raising(error), tracer().start_as_current_span(NAME, attributes=attributes()):
        raise error
    assert state_of(ledger) == state


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize(("error", "state"), ENDS, ids=[type(error).__name__ for error, _ in ENDS])
def test_neither_is_one_that_records_nothing_or_is_a_block_itself(error, state, tracer, ledger):
    quiet = {"record_exception": False, "set_status_on_exception": False}
    with raising(error), tracer.start_as_current_span(NAME, attributes=attributes("o-1"), **quiet):
        raise error
    with raising(error), tracer.start_span(NAME, attributes=attributes("o-2")):
        raise error
    assert [row["state"] for row in ledger.calls()] == [state, state]


@pytest.mark.usefixtures("closed")
def test_a_task_cancelled_inside_its_span_leaves_the_outcome_unknown(tracer, ledger):
    async def cancel_inside() -> None:
        inside = asyncio.Event()

        async def refund() -> None:
            with tracer.start_as_current_span(NAME, attributes=attributes()):
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(refund())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_inside())
    assert state_of(ledger) == "unknown"


@pytest.mark.usefixtures("closed")
def test_a_generator_closed_inside_its_span_leaves_the_outcome_unknown(tracer, ledger):
    def refunds() -> Iterator[int]:
        with tracer.start_as_current_span(NAME, attributes=attributes()):
            yield 1

    generator = refunds()
    next(generator)
    generator.close()
    assert state_of(ledger) == "unknown"


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize(
    ("mark", "state"),
    [
        (lambda span: span.set_status(StatusCode.ERROR, "no"), "failed"),
        (lambda span: span.set_status(Status(StatusCode.ERROR, "no")), "failed"),
        (lambda span: span.set_status(StatusCode.OK), "succeeded"),
        (lambda span: span.record_exception(ValueError("handled")), "succeeded"),
        (lambda span: (span.record_exception(ValueError()), span.set_status(StatusCode.ERROR)), "failed"),
        (lambda span: (span.record_exception(TimeoutError()), span.set_status(StatusCode.ERROR)), "unknown"),
        (lambda span: (span.set_status(StatusCode.ERROR), span.record_exception(TimeoutError())), "unknown"),
        (lambda span: (span.set_status(StatusCode.ERROR), span.set_status(StatusCode.OK)), "succeeded"),
    ],
)
@pytest.mark.parametrize("make", [Exporting, lambda: Exporting(ALWAYS_OFF)], ids=["sampled", "unsampled"])
def test_the_status_says_how_it_ended_and_a_recorded_exception_why(mark, state, make, ledger):
    span = make().tracer.start_span(NAME, attributes=attributes())
    mark(span)
    span.end()
    span.end()
    assert state_of(ledger) == state


@pytest.mark.usefixtures("closed")
def test_an_exception_after_the_status_ok_is_no_success(tracer, ledger):
    error = TimeoutError()
    with raising(error), tracer.start_as_current_span(NAME, attributes=attributes()) as span:
        span.set_status(StatusCode.OK)
        raise error
    assert state_of(ledger) == "unknown"


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("make", [Exporting, lambda: Exporting(ALWAYS_OFF)], ids=["sampled", "unsampled"])
def test_an_exception_that_is_being_handled_around_a_span_is_not_its_own(make, ledger):
    try:
        raise TimeoutError
    except TimeoutError:
        with make().tracer.start_as_current_span(NAME, attributes=attributes()):
            pass
    assert state_of(ledger) == "succeeded"


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("tracer", [pytest.param(make, id=name) for name, make in TRACERS.items()])
def test_a_span_inside_does_not_settle_the_call_around_it(tracer, ledger):
    tracer = tracer()
    error = TimeoutError()
    with raising(error), tracer.start_as_current_span(NAME, attributes=attributes()):
        with tracer.start_as_current_span("child"):
            pass
        tracer.start_span("another").end()
        assert state_of(ledger) == "in_flight"
        raise error
    assert state_of(ledger) == "unknown"


@pytest.mark.usefixtures("closed")
def test_a_call_that_cannot_be_settled_is_no_error_of_its_caller(tracer, sql, caplog):
    with tracer.start_as_current_span(NAME, attributes=attributes()):
        sql.execute("drop schema spanledger_v1 cascade")
    assert "could not be recorded" in caplog.text
