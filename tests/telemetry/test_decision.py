"""The decision trace: workflows, steps and choices as spans and events, and what ties trace and ledger together."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import wrapt
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import INVALID_SPAN, Span, StatusCode, format_span_id, format_trace_id

import spanledger
from spanledger import Budget, Calls, Config, current_workflow, decide, errors, step, tool, tool_call, workflow
from spanledger._guard import ambient


@pytest.fixture
def instrument(dsn: str) -> Callable[..., None]:
    """Guard this process with the given fields of `Config`, on this test's database."""
    return lambda **fields: spanledger.instrument(Config(dsn=dsn, **fields), libraries=[])


def attributes(span: ReadableSpan, *names: str) -> list[Any]:
    return [span.attributes.get(name) for name in names]


def events(span: ReadableSpan) -> list[tuple[str, dict[str, Any]]]:
    return [(event.name, dict(event.attributes)) for event in span.events]


# --- workflows


def test_a_workflow_is_a_span_that_says_who_wanted_what(spans):
    with workflow("order-1", agent="support", goal="refund order 1", actor="u_42") as run:
        assert (run.workflow_id, run.agent, run.goal) == ("order-1", "support", "refund order 1")
        assert spans.all() == []
    span = spans.one("invoke_agent support")
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "support",
        "gen_ai.conversation.id": "order-1",
        "spanledger.workflow.id": "order-1",
        "spanledger.workflow.goal": "refund order 1",
        "spanledger.actor": "u_42",
    }
    assert span.status.status_code is StatusCode.UNSET


def test_a_workflow_without_an_agent_has_a_plain_name_and_one_without_an_id_is_refused(spans):
    with workflow("w"):
        pass
    assert "gen_ai.agent.name" not in spans.one("invoke_agent").attributes
    with pytest.raises(ValueError, match="workflow id"):
        workflow("")


def test_what_is_raised_in_a_workflow_passes_through_and_is_on_its_span(spans):
    error = KeyError("order")
    with pytest.raises(KeyError) as caught, workflow("w"):
        raise error
    assert caught.value is error
    span = spans.one("invoke_agent")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "KeyError"


def test_a_workflow_inside_a_workflow_is_a_child_and_ends_there(spans):
    assert current_workflow() is None
    with workflow("outer", actor="u_42") as outer:
        with workflow("inner") as inner:
            assert current_workflow() is inner
            step("inside")
        assert current_workflow() is outer
        step("outside")
    assert current_workflow() is None
    child, parent = spans.all("invoke_agent")
    assert child.parent.span_id == parent.context.span_id
    assert child.attributes["spanledger.actor"] == "u_42"
    assert [events(span)[0][1] for span in (child, parent)] == [
        {"spanledger.step.text": "inside"},
        {"spanledger.step.text": "outside"},
    ]


def test_a_workflow_can_be_awaited_and_its_tasks_are_inside(spans):
    async def run() -> None:
        async with workflow("w", agent="a") as around:

            async def task(text: str) -> None:
                assert current_workflow() is around
                step(text)

            await asyncio.gather(task("one"), task("two"))

    asyncio.run(run())
    texts = [given["spanledger.step.text"] for _, given in events(spans.one("invoke_agent a"))]
    assert sorted(texts) == ["one", "two"]


def test_a_workflow_follows_a_copied_context_into_a_thread_and_no_other(spans):
    found = []

    def look() -> None:
        found.append(current_workflow())
        step("from a thread")

    with workflow("w") as around:
        copied = contextvars.copy_context()
        for thread in (threading.Thread(target=look), threading.Thread(target=copied.run, args=(look,))):
            thread.start()
            thread.join()
    assert found == [None, around]
    assert len(events(spans.one("invoke_agent"))) == 1


async def _in_executor(job: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, job)


WAYS = {
    "submit": lambda pool, job: pool.submit(job).result(),
    "map": lambda pool, job: next(pool.map(lambda _: job(), [1])),
    "run_in_executor": lambda pool, job: asyncio.run(_in_executor(job)),
    "to_thread": lambda pool, job: asyncio.run(asyncio.to_thread(job)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_workflow_follows_a_job_into_an_executor_and_leaves_nothing_there(way, instrument, ledger, spans):
    instrument()
    calls = tool("refund")(lambda: current_workflow().workflow_id)
    with ThreadPoolExecutor(1) as pool:
        for name in ("first", "second"):
            with workflow(name):
                assert way(pool, calls) == name
        assert way(pool, current_workflow) is None
        assert way(pool, trace.get_current_span) is INVALID_SPAN
    assert {row["workflow_id"] for row in ledger.calls()} == {"first", "second"}
    for run, ran in zip(spans.all("invoke_agent"), spans.all("execute_tool refund"), strict=True):
        assert ran.parent.span_id == run.context.span_id


def test_what_a_pool_has_set_for_its_threads_stays_there(instrument):
    instrument()
    of_pool = contextvars.ContextVar("of_pool", default="nothing")
    with ThreadPoolExecutor(1, initializer=of_pool.set, initargs=("the pool's",)) as pool, workflow("w"):
        assert pool.submit(of_pool.get).result() == "the pool's"


def test_a_job_that_fails_in_an_executor_leaves_nothing_there_and_uninstrument_takes_all_back(instrument):
    spanledger.uninstrument()
    before = ThreadPoolExecutor.__dict__["submit"]
    instrument()
    with ThreadPoolExecutor(1) as pool:
        with workflow("w"), pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 / 0).result()
        assert pool.submit(current_workflow).result() is None
        spanledger.uninstrument()
        assert ThreadPoolExecutor.__dict__["submit"] is before


@pytest.mark.parametrize("first", [True, False])
def test_a_workflow_follows_a_job_also_where_somebody_else_wraps_what_hands_it_in(first, instrument, monkeypatch):
    def theirs(wrapped: Any, _pool: Any, args: Any, kwargs: Any) -> Any:
        return wrapped(*args, **kwargs)

    spanledger.uninstrument()
    monkeypatch.setattr(ThreadPoolExecutor, "submit", ThreadPoolExecutor.__dict__["submit"])  # put back at the end
    if not first:
        instrument()
    wrapt.wrap_function_wrapper(ThreadPoolExecutor, "submit", theirs)
    if first:
        instrument()
    with ThreadPoolExecutor(1) as pool, workflow("w") as around:
        assert pool.submit(current_workflow).result() is around
    spanledger.uninstrument()


def test_a_workflow_that_is_closed_in_another_context_ends_all_the_same(spans):
    def run() -> Iterator[None]:
        with workflow("w"):
            yield

    generator = run()
    contextvars.copy_context().run(next, generator)
    generator.close()
    assert current_workflow() is None
    spans.one("invoke_agent")


# --- steps and decisions


def test_steps_and_decisions_are_events_in_the_words_of_the_developer(spans):
    with workflow("w") as run:
        run.step("customer is entitled to a refund")
        run.decide("method", options=["card", "voucher"], chosen="card", because="paid by card", confidence=0.9)
        decide("amount", options=("10", "20"), chosen="10")
    assert events(spans.one("invoke_agent")) == [
        ("spanledger.step", {"spanledger.step.text": "customer is entitled to a refund"}),
        (
            "spanledger.decision",
            {
                "spanledger.decision.name": "method",
                "spanledger.decision.options": ("card", "voucher"),
                "spanledger.decision.chosen": "card",
                "spanledger.decision.because": "paid by card",
                "spanledger.decision.confidence": 0.9,
            },
        ),
        (
            "spanledger.decision",
            {
                "spanledger.decision.name": "amount",
                "spanledger.decision.options": ("10", "20"),
                "spanledger.decision.chosen": "10",
            },
        ),
    ]


@pytest.mark.usefixtures("spans")
def test_without_a_workflow_they_go_to_the_current_span_or_nowhere(spans):
    step("nobody listens")
    decide("nothing", options=[], chosen="")
    with trace.get_tracer("test").start_as_current_span("mine"):
        step("here")
    assert events(spans.one("mine")) == [("spanledger.step", {"spanledger.step.text": "here"})]


@pytest.mark.usefixtures("spans")
def test_a_step_after_the_end_of_its_workflow_breaks_nothing():
    with workflow("w") as run:
        pass
    run.step("too late")
    run.decide("too late", options=["a"], chosen="a")


# --- trace and ledger


def test_a_workflow_is_the_scope_of_the_calls_inside_and_says_whose_they_are(instrument, ledger_with, spans):
    instrument()

    @tool
    def refund(order_id: str) -> str:
        return order_id

    with workflow("order-1", agent="support", actor="u_42", tenant="acme"):
        refund("o-1")
    (row,) = ledger_with(tenant="acme").calls()
    assert (row["workflow_id"], row["agent"], row["actor"]) == ("order-1", "support", "u_42")
    assert ledger_with().calls() == []
    assert attributes(
        spans.one("execute_tool refund"),
        "spanledger.workflow.id",
        "spanledger.workflow.source",
        "gen_ai.agent.name",
        "spanledger.actor",
    ) == ["order-1", "given", "support", "u_42"]


def test_the_ledger_s_row_names_the_span_and_the_span_the_row(instrument, ledger, spans):
    instrument()
    with workflow("w"), tool_call("refund", {"order_id": "o-1"}) as call:
        pass
    span, row = spans.one("execute_tool refund"), ledger.get(call.key)
    assert row["trace_id"] == format_trace_id(span.context.trace_id)
    assert row["span_id"] == format_span_id(span.context.span_id)
    assert attributes(span, "spanledger.call.key", "spanledger.call.key_source", "spanledger.call.attempt") == [
        row["key"],
        "arguments",
        1,
    ]
    assert span.parent.span_id == spans.one("invoke_agent").context.span_id


def test_a_replay_in_another_trace_links_to_the_span_that_ran(instrument, spans):
    instrument()
    calls = tool("refund")(lambda: 1)
    for _ in range(2):
        with workflow("w"):
            calls()
    ran, replayed = spans.all("execute_tool refund")
    (link,) = replayed.links
    assert (link.context.trace_id, link.context.span_id) == (ran.context.trace_id, ran.context.span_id)
    assert replayed.context.trace_id != ran.context.trace_id
    assert link.attributes["spanledger.call.key"] == ran.attributes["spanledger.call.key"]
    assert not ran.links


def test_the_span_of_a_running_call_is_current_and_our_own_questions_are_not_in_it(instrument, spans):
    instrument()

    @tool
    def refund() -> None:
        with trace.get_tracer("test").start_as_current_span("POST /refunds"):
            pass

    with workflow("w"):
        refund()
    assert [span.name for span in spans.all()] == ["POST /refunds", "execute_tool refund", "invoke_agent"]
    assert spans.one("POST /refunds").parent.span_id == spans.one("execute_tool refund").context.span_id


def test_a_refusal_says_which_budget_and_how_it_stands(instrument, spans):
    instrument(budgets=[Budget("few", Calls(1))])
    refund = tool("refund")(lambda n: n)
    with workflow("w"):
        refund(1)
        with pytest.raises(errors.BudgetExceeded):
            refund(2)
    ran, refused = spans.all("execute_tool refund")
    names = ("spanledger.verdict", "spanledger.budget.names", "spanledger.budget.remaining")
    assert attributes(ran, *names) == ["run", ("few",), ("0 calls",)]
    assert attributes(refused, *names) == ["budget_exceeded", ("few",), ("0 calls",)]
    assert attributes(refused, "spanledger.budget.limit", "spanledger.budget.requested") == ["1 calls", "1 calls"]
    assert "few" in refused.attributes["spanledger.verdict.reason"]
    assert refused.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("wanted", [True, False])
def test_arguments_and_results_are_on_spans_only_where_that_is_wanted(wanted, instrument, spans):
    instrument(capture_content=wanted)

    @tool
    def refund(order_id: str) -> dict:
        return {"of": order_id}

    with workflow("w"):
        refund("o-1")
        refund("o-1")
    for span in spans.all("execute_tool refund"):
        assert attributes(span, "gen_ai.tool.call.arguments", "gen_ai.tool.call.result") == (
            ['{"order_id": "o-1"}', '{"of": "o-1"}'] if wanted else [None, None]
        )
        assert ("o-1" in span.to_json()) is wanted


# --- telemetry fails open


class Broken(Span):
    """A span of which nothing works."""

    def _fail(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the backend is on fire")

    end = get_span_context = set_attributes = set_attribute = add_event = add_link = _fail
    update_name = is_recording = set_status = record_exception = _fail


class Failing(SpanProcessor):
    """Raises wherever a processor can."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise RuntimeError("on_start")

    def on_end(self, span: Any) -> None:
        raise RuntimeError("on_end")


def failing_provider() -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Failing())
    return provider


def raising_tracer(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("no tracer today")


BROKEN = {
    "no tracer": raising_tracer,
    "a processor that raises": lambda scope: failing_provider().get_tracer(scope),
    "spans that raise": lambda scope: type("T", (trace.NoOpTracer,), {"start_span": lambda *a, **k: Broken()})(),
    "spans of nothing": lambda scope: type("T", (trace.NoOpTracer,), {"start_span": lambda *a, **k: INVALID_SPAN})(),
}


@pytest.mark.parametrize("get_tracer", BROKEN.values(), ids=BROKEN)
def test_telemetry_that_fails_costs_the_trace_and_not_the_call(get_tracer, instrument, ledger, monkeypatch):
    instrument(budgets=[Budget("few", Calls(3))])
    monkeypatch.setattr(trace, "get_tracer", get_tracer)

    @tool
    def refund(order_id: str) -> str:
        return order_id

    @tool
    async def refund_awaiting(order_id: str) -> str:
        return order_id

    with workflow("w") as run:
        run.step("still here")
        assert (refund("o-1"), refund("o-1")) == ("o-1", "o-1")
        assert asyncio.run(refund_awaiting("o-1")) == "o-1"
        with tool_call("block") as call:
            call.result = 1
        with pytest.raises(errors.BudgetExceeded):
            refund("o-2")
    assert sorted(row["state"] for row in ledger.calls()) == ["refused"] + ["succeeded"] * 3


def test_workflows_closed_in_any_order_leave_none_behind_and_the_open_one_around(instrument, spans):
    instrument()

    @tool
    def look() -> str:
        return current_workflow().workflow_id

    before = trace.get_current_span()
    first, second, third = workflow("first"), workflow("second"), workflow("third")
    for opened in (first, second, third):
        opened.__enter__()
    second.__exit__(None, None, None)
    assert current_workflow() is third
    third.__exit__(None, None, None)
    assert (current_workflow(), look()) == (first, "first")
    fourth = workflow("fourth").__enter__()
    first.__exit__(None, None, None)
    assert (current_workflow(), look()) == (fourth, "fourth")
    fourth.__exit__(None, None, None)
    assert (current_workflow(), ambient(), trace.get_current_span()) == (None, None, before)
    assert len(spans.all("invoke_agent")) == 4
    under = {span.parent.span_id for span in spans.all("execute_tool look")}
    assert under == {span.context.span_id for span in spans.all("invoke_agent")[2:]}
