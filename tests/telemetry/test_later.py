"""On an event loop the end of a span does not wait for the ledger, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from hand_written import BY_ARGUMENTS, ENDS, NAME, TRACERS, Exporting, attributes, raising, state_of
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import spanledger
from spanledger import Config, GuardrailSpanProcessor, errors, workflow
from spanledger.instrument import _runtime
from spanledger.ledger import _later


@pytest.fixture
def later(closed: None) -> Any:
    """What the ledger is told later."""
    return _runtime.engine().guard.later


@pytest.fixture
def held(dsn: str) -> Callable[[], Any]:
    """Hold the rows of all calls: they can be read, and whoever settles one waits."""

    @contextmanager
    def hold() -> Iterator[None]:
        with psycopg.connect(dsn) as connection:
            assert connection.execute("select 1 from spanledger.call for update").fetchall()
            yield
            connection.rollback()

    return hold


def on_a_loop(tracer: Any, error: BaseException | None = None, result: str = '{"refund": 7}') -> None:
    """Open one span on a loop of its own and leave it."""

    async def refund() -> None:
        with tracer.start_as_current_span(NAME, attributes=attributes()) as span:
            span.set_attribute("gen_ai.tool.call.result", result)
            if error is not None:
                raise error

    asyncio.run(refund())


def test_on_a_loop_the_end_of_a_span_does_not_wait_for_the_ledger(later, held, tracer, sdk, ledger):
    async def refund() -> None:
        with tracer.start_as_current_span(NAME, attributes=attributes()):
            holding = held()
            holding.__enter__()
        # With the row held, whoever waited for the ledger would not come here.
        assert not later.flush(0)
        assert await asyncio.to_thread(state_of, ledger) == "in_flight"
        holding.__exit__(None, None, None)

    asyncio.run(refund())
    assert later.flush(30)
    assert state_of(ledger) == "succeeded"
    (span,) = sdk.spans()
    assert span.attributes["spanledger.call.outcome"] == "succeeded"
    assert span.attributes["spanledger.call.queued"] is True


@pytest.mark.parametrize("tracer", [pytest.param(make, id=name) for name, make in TRACERS.items()])
@pytest.mark.parametrize(("error", "state"), ENDS[:2], ids=[type(error).__name__ for error, _ in ENDS[:2]])
def test_there_too_a_span_left_by_an_exception_is_no_success(error, state, tracer, later, ledger):
    with raising(error):
        on_a_loop(tracer(), error)
    assert later.flush(30)
    assert state_of(ledger) == state


@pytest.mark.parametrize("make", [Exporting, lambda: Exporting(ALWAYS_OFF)], ids=["sampled", "unsampled"])
def test_an_asynchronous_generator_closed_inside_its_span_leaves_the_outcome_unknown(make, later, ledger):
    async def refunds() -> AsyncIterator[int]:
        with make().tracer.start_as_current_span(NAME, attributes=attributes()):
            yield 1

    async def break_off() -> None:
        generator = refunds()
        await anext(generator)
        await generator.aclose()

    asyncio.run(break_off())
    assert later.flush(30)
    assert state_of(ledger) == "unknown"


def test_whoever_makes_the_same_call_at_once_is_given_its_result(later, tracer):
    async def twice() -> None:
        with tracer.start_as_current_span(NAME, attributes=attributes()) as span:
            span.set_attribute("gen_ai.tool.call.result", '{"refund": 7}')
        with (
            pytest.raises(errors.CallReplayed) as caught,
            tracer.start_as_current_span(NAME, attributes=attributes()),
        ):
            pytest.fail("must not run")
        assert caught.value.result == {"refund": 7}

    asyncio.run(twice())


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_so_is_a_guarded_function_that_does_not_wait(kind, instrument, tracer):
    instrument(rules=[spanledger.Rule("refund", identity="arguments", wait_timeout_s=0)])

    @spanledger.tool
    def refund(order_id: str) -> Any:
        pytest.fail("must not run")

    @spanledger.tool("refund")
    async def refund_awaiting(order_id: str) -> Any:
        pytest.fail("must not run")

    async def both() -> Any:
        with workflow("w"):
            with tracer.start_as_current_span(NAME, attributes=attributes()) as span:
                span.set_attribute("gen_ai.tool.call.result", '{"refund": 7}')
            return refund("o-1") if kind == "plain" else await refund_awaiting("o-1")

    assert asyncio.run(both()) == {"refund": 7}


def test_what_is_being_told_already_is_waited_for(later, held, tracer):
    async def twice() -> None:
        with tracer.start_as_current_span(NAME, attributes=attributes()):
            holding = held()
            holding.__enter__()
        freed = threading.Timer(0.2, holding.__exit__, (None, None, None))
        freed.start()
        with (
            pytest.raises(errors.CallReplayed),
            tracer.start_as_current_span(NAME, attributes=attributes()),
        ):
            pytest.fail("must not run")
        freed.join()

    asyncio.run(twice())


PROGRAM = """
    import asyncio
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    import spanledger

    trace.set_tracer_provider(TracerProvider())
    spanledger.instrument(spanledger.Config(dsn="{dsn}"), libraries=[])

    async def refund(n):
        with trace.get_tracer("test").start_as_current_span("execute_tool refund"):
            await asyncio.sleep(0)

    async def refunds():
        with spanledger.workflow("w"):
            await asyncio.gather(*(refund(n) for n in range(20)))

    asyncio.run(refunds())
"""


def test_a_program_that_ends_at_once_has_told_everything(dsn, ledger):
    program = textwrap.dedent(PROGRAM.format(dsn=dsn))
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, env={})
    assert [row["state"] for row in ledger.calls()] == ["succeeded"] * 20


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forked with threads: the point of the test
def test_so_has_a_forked_child_and_the_parent_tells_its_own(later, held, tracer, ledger):
    async def refund(order_id: str) -> None:
        with tracer.start_as_current_span(NAME, attributes=attributes(order_id)):
            pass

    def child() -> None:
        with workflow("w"):
            asyncio.run(refund("o-2"))

    async def parent() -> None:
        with tracer.start_as_current_span(NAME, attributes=attributes("o-1")):
            holding = held()
            holding.__enter__()
        forked = multiprocessing.get_context("fork").Process(target=child)
        forked.start()
        await asyncio.to_thread(forked.join)
        assert forked.exitcode == 0
        states = {json.loads(row["arguments"])["order_id"]: row["state"] for row in ledger.calls()}
        assert states == {"o-1": "in_flight", "o-2": "succeeded"}
        holding.__exit__(None, None, None)

    asyncio.run(parent())
    assert later.flush(30)
    assert {row["state"] for row in ledger.calls()} == {"succeeded"}


def test_what_the_ledger_does_not_take_goes_to_disk_with_all_behind_it(later, tracer, sql, caplog):
    async def refund(order_id: str) -> None:
        with tracer.start_as_current_span(NAME, attributes=attributes(order_id)):
            pass

    async def refunds() -> None:
        await refund("o-0")
        assert later.flush(30)
        with tracer.start_as_current_span(NAME, attributes=attributes("o-1")):
            other = tracer.start_span(NAME, attributes=attributes("o-2"))
            sql.execute("alter schema spanledger_v1 rename to gone")
        other.end()

    asyncio.run(refunds())
    assert later.flush(30)
    assert caplog.text.count("is kept on disk and told later") == 2
    assert sorted(row[0] for row in sql.execute("select state from spanledger.call")) == ["in_flight"] * 2 + [
        "succeeded"
    ]
    sql.execute("alter schema gone rename to spanledger_v1")
    with pytest.raises(errors.CallReplayed):  # whoever begins tells first what waits on disk
        tracer.start_span(NAME, attributes=attributes("o-1"))
    with pytest.raises(errors.CallReplayed):
        tracer.start_span(NAME, attributes=attributes("o-2"))


def test_where_the_queue_is_full_the_outcome_goes_to_disk_and_is_told(later, tracer, monkeypatch, caplog):
    monkeypatch.setattr(_later, "QUEUED_MAX", 0)
    on_a_loop(tracer)
    assert "0 outcomes are queued already" in caplog.text
    assert "is kept on disk and told later" in caplog.text
    with pytest.raises(errors.CallReplayed) as caught:
        tracer.start_span(NAME, attributes=attributes())
    assert caught.value.result == {"refund": 7}


def test_what_finds_no_room_anywhere_is_logged_and_counted(later, tracer, monkeypatch, ledger, caplog):
    monkeypatch.setattr(_later, "QUEUED_MAX", 0)
    monkeypatch.setattr("spanledger.ledger._spool.ENTRIES_MAX", 0)
    on_a_loop(tracer)
    assert "counts as unknown once its lease is over" in caplog.text
    assert later._drives._database.spooled().refused == 1
    assert state_of(ledger) == "in_flight"


@pytest.mark.parametrize("way", ["force_flush", "shutdown"])
def test_a_flush_of_the_provider_is_one_of_the_ledger(way, dsn, sdk, ledger):
    sdk.provider.add_span_processor(GuardrailSpanProcessor(Config(dsn=dsn, rules=[BY_ARGUMENTS])))
    with workflow("w"):
        on_a_loop(sdk.tracer)
    getattr(sdk.provider, way)()
    assert state_of(ledger) == "succeeded"


def test_a_flush_says_when_something_is_left(later, held, sdk, tracer, ledger):
    sdk.provider.add_span_processor(GuardrailSpanProcessor())

    async def refund() -> None:
        with tracer.start_as_current_span(NAME, attributes=attributes()):
            holding = held()
            holding.__enter__()
        assert sdk.provider.force_flush(timeout_millis=1) is False
        holding.__exit__(None, None, None)

    asyncio.run(refund())
    assert sdk.provider.force_flush() is True
    assert state_of(ledger) == "succeeded"


def test_uninstrument_tells_what_is_queued(later, tracer, ledger):
    on_a_loop(tracer)
    spanledger.uninstrument()
    assert state_of(ledger) == "succeeded"
