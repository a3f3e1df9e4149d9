"""Hand-written spans in every form: described, guarded, and otherwise spans as ever."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from hand_written import NAME, TRACERS, Exporting, attributes, state_of
from opentelemetry.sdk.trace import Span
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode, get_current_span

import spanledger
from spanledger import (
    Budget,
    Calls,
    Money,
    current_call,
    errors,
    workflow,
)
from spanledger.telemetry import spans

# --- forms of a span


def by_with(tracer: Any) -> None:
    with tracer.start_as_current_span(NAME, attributes=attributes()):
        pass


def by_hand(tracer: Any) -> None:
    tracer.start_span(NAME, attributes=attributes()).end()


def by_with_of_the_span(tracer: Any) -> None:
    with tracer.start_span(NAME, attributes=attributes()):
        pass


def by_place(tracer: Any) -> None:
    tracer.start_span(NAME, None, 0, attributes()).end()


def by_decorator(tracer: Any) -> None:
    @tracer.start_as_current_span(NAME, attributes=attributes())
    def refund() -> None:
        pass

    refund()


def by_decorated_coroutine(tracer: Any) -> None:
    @tracer.start_as_current_span(NAME, attributes=attributes())
    async def refund() -> None:
        await asyncio.sleep(0)

    asyncio.run(refund())


def by_name_only(tracer: Any) -> None:
    """The name says it all; the operation is not there."""
    more = attributes()
    del more["gen_ai.operation.name"], more["gen_ai.tool.name"]
    tracer.start_span(NAME, attributes=more).end()


def by_operation_only(tracer: Any) -> None:
    tracer.start_span("whatever", attributes=attributes()).end()


FORMS = [by_with, by_hand, by_with_of_the_span, by_place, by_decorator, by_decorated_coroutine, by_name_only]
FORMS += [by_operation_only]


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("make", [Exporting, lambda: Exporting(ALWAYS_OFF)], ids=["sampled", "unsampled"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_of_a_span_is_guarded_and_settled(form, make, ledger):
    tracer = make().tracer
    form(tracer)
    assert state_of(ledger) == "succeeded"
    with pytest.raises(errors.CallReplayed):
        form(tracer)


@pytest.mark.usefixtures("closed")
def test_a_name_alone_is_recorded_and_runs_each_time(tracer, ledger):
    with workflow("x"):
        for _ in range(2):
            with tracer.start_as_current_span("execute_tool look_up"):
                pass
    assert [(row["tool"], row["key_source"], row["state"]) for row in ledger.calls()] == [
        ("look_up", "none", "succeeded")
    ] * 2


@pytest.mark.usefixtures("closed")
def test_a_call_id_and_arguments_are_an_identity_and_the_conversation_a_scope(tracer, ledger):
    more = {"gen_ai.tool.name": "look_up", "gen_ai.tool.call.id": "call_a", "gen_ai.conversation.id": "c-1"}
    tracer.start_span(NAME, attributes=attributes(**more)).end()
    with pytest.raises(errors.CallReplayed):
        tracer.start_span(NAME, attributes=attributes(**more))
    tracer.start_span(NAME, attributes=attributes("o-2", **more)).end()
    assert [(row["key_source"], row["workflow_id"]) for row in ledger.calls()] == [("call_id", "w")] * 2


def test_the_conversation_is_the_scope_where_no_workflow_is_around(instrument, tracer, ledger):
    instrument()
    for conversation in ("c-1", "c-2"):
        tracer.start_span(NAME, attributes=attributes(**{"gen_ai.conversation.id": conversation})).end()
    assert {row["workflow_id"] for row in ledger.calls()} == {"c-1", "c-2"}


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize(
    "spoilt",
    ['{"order_id":', '{"order_id": NaN}', '"\\ud800"', "[" * 100_000, b"bytes", ["a", "b"], 7, object(), ""],
    ids=lambda value: str(value)[:12],
)
def test_arguments_of_any_kind_break_nothing(spoilt, tracer, ledger):
    more = attributes(**{"gen_ai.tool.name": "look_up", "gen_ai.tool.call.arguments": spoilt})
    with (
        suppress(errors.Undescribable),
        tracer.start_as_current_span("x", attributes=more | {"gen_ai.tool.name": "refund"}),
    ):
        pass
    ran = []
    with tracer.start_as_current_span("x", attributes=more):
        ran.append(1)
    assert ran == [1], "nobody asked for it to be guarded"


@pytest.mark.usefixtures("closed")
def test_a_guarded_tool_whose_arguments_the_span_does_not_show_is_refused(sdk):
    more = attributes()
    del more["gen_ai.tool.call.arguments"]
    with pytest.raises(errors.Undescribable), sdk.tracer.start_as_current_span(NAME, attributes=more):
        pytest.fail("must not run")
    (span,) = sdk.spans()
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.usefixtures("closed")
def test_other_spans_are_none_of_our_business(sdk, ledger):
    others = [
        ("chat gpt-5", {"gen_ai.operation.name": "chat"}),
        (NAME, {"gen_ai.operation.name": "invoke_agent"}),
        ("GET /", None),
        ("execute_toolbox", {}),
    ]
    for name, given in others:
        with sdk.tracer.start_as_current_span(name, attributes=given) as span:
            assert type(span) is not spans.GuardedSpan
    assert [span.name for span in sdk.spans()] == [name for name, _ in others]
    assert all(not name.startswith("spanledger.") for span in sdk.spans() for name in span.attributes)
    assert ledger.calls() == []


@pytest.mark.usefixtures("closed")
def test_a_guarded_span_is_a_span_in_every_respect(sdk):
    with sdk.tracer.start_as_current_span(NAME, attributes=attributes()) as span:
        assert isinstance(span, Span)
        assert get_current_span() is span
        span.set_attributes({"a": 1})
        span.add_event("b")
        span.update_name("execute_tool renamed")
        with sdk.tracer.start_as_current_span("child") as child:
            assert child.parent == span.get_span_context()
    child, parent = sdk.spans()
    assert (parent.name, parent.attributes["a"], parent.events[0].name) == ("execute_tool renamed", 1, "b")
    assert not child.attributes


# --- spans inside calls, calls inside spans


def test_a_span_inside_a_guarded_function_of_the_same_call_is_that_call(instrument, tracer, ledger):
    instrument(budgets=[Budget("few", Calls(1))])

    @spanledger.tool
    def refund(order_id: str) -> str:
        with tracer.start_as_current_span(NAME, attributes=attributes(order_id)):
            return "done"

    with workflow("w"):
        assert (refund("o-1"), refund("o-1")) == ("done", "done")
    assert ledger.budget("few").spent == Calls(1)


@pytest.mark.parametrize("tracer", [pytest.param(make, id=name) for name, make in TRACERS.items()])
def test_a_guarded_function_inside_a_span_of_the_same_call_is_that_call(tracer, instrument, ledger):
    instrument(budgets=[Budget("few", Calls(1)), Budget("money", Money("9", "EUR"))])
    tracer = tracer()

    @spanledger.tool
    def refund(order_id: str) -> str | None:
        current_call().charge(Money("2", "EUR"))
        return current_call().key

    with workflow("w"), tracer.start_as_current_span(NAME, attributes=attributes()):
        key = refund("o-1")
    assert state_of(ledger) == "succeeded"
    assert ledger.get(key)["attempts"] == 1
    assert ledger.budget("few").spent == Calls(1)
    assert ledger.budget("money").spent == Money("2", "EUR")


@pytest.mark.usefixtures("closed")
def test_another_call_inside_a_span_is_decided_on_its_own(tracer, ledger):
    with tracer.start_as_current_span(NAME, attributes=attributes("o-1")):
        by_name = attributes("o-2")
        with tracer.start_as_current_span(NAME, attributes=by_name):
            pass
        with pytest.raises(errors.CallReplayed), tracer.start_as_current_span(NAME, attributes=by_name):
            pytest.fail("must not run")
    assert [row["state"] for row in ledger.calls()] == ["succeeded", "succeeded"]


# --- on a loop


@pytest.mark.usefixtures("closed")
def test_on_a_loop_a_span_does_not_wait_for_another_worker(tracer, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)

    async def both() -> None:
        with tracer.start_as_current_span(NAME, attributes=attributes()):

            async def another() -> None:
                with workflow("w"), tracer.start_as_current_span(NAME, attributes=attributes(), context={}):
                    pytest.fail("must not run")

            with pytest.raises(errors.CallInProgress):
                await asyncio.create_task(another())

    asyncio.run(both())
    assert waits == []
