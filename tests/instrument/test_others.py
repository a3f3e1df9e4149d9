"""Instrumentations of other makers come and go; ours stays around theirs, and leaves no trace when it goes."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest
import wrapt
from openai.resources.chat.completions import Completions
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.instrumentation.utils import unwrap

import spanledger
from spanledger import Config, Money, Price
from spanledger.instrument import _patch
from spanledger.instrument._proxies import PROXY
from spanledger.instrument.library import Library, Wrap, no_call
from spanledger.telemetry import instruments, semconv

TARGET = "openai.resources.chat.completions.Completions"
CREATE = vars(Completions)["create"]


class Others(BaseInstrumentor):
    """Wraps what we wrap, as instrumentations do."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def instrumentation_dependencies(self) -> Collection[str]:
        return []

    def _instrument(self, **kwargs: Any) -> None:
        wrapt.wrap_function_wrapper("openai.resources.chat.completions", "Completions.create", self._around)

    def _uninstrument(self, **kwargs: Any) -> None:
        unwrap(Completions, "create")

    def _around(self, wrapped: Any, _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.order.append("theirs")
        return wrapped(*args, **kwargs)


@pytest.fixture
def theirs():
    others = Others()
    yield others
    spanledger.uninstrument()
    if others.is_instrumented_by_opentelemetry:
        others.uninstrument()
    assert vars(Completions)["create"] is CREATE


def layers() -> list[bool]:
    """From the outside in, whether it is a wrapper of ours."""
    found, layer = [], vars(Completions)["create"]
    while isinstance(layer, PROXY):
        found.append(isinstance(layer, _patch._Wrapper))
        layer = layer.__wrapped__
    assert layer is CREATE
    return found


def both_come(theirs: Others, ours: Callable[[], None], *, ours_first: bool) -> None:
    if ours_first:
        ours()
    theirs.instrument()
    if not ours_first:
        ours()


@pytest.mark.parametrize("ours_first", [True, False])
def test_ours_is_around_theirs_whoever_came_first(ours_first, theirs, instrument_client, client: openai.OpenAI, spans):
    both_come(theirs, instrument_client, ours_first=ours_first)

    assert layers() == [True, False]
    client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hi"}])
    assert theirs.order == ["theirs"]
    assert len(spans.all()) == 1


@pytest.mark.parametrize("ours_first", [True, False])
def test_theirs_goes_and_ours_stays(ours_first, theirs, instrument_client):
    both_come(theirs, instrument_client, ours_first=ours_first)
    theirs.uninstrument()

    assert layers() == [True]


@pytest.mark.parametrize("ours_first", [True, False])
def test_ours_goes_and_theirs_stays(ours_first, theirs, instrument_client):
    both_come(theirs, instrument_client, ours_first=ours_first)
    spanledger.uninstrument()

    assert layers() == [False]
    theirs.uninstrument()
    assert layers() == []


def test_what_ours_does_to_know_of_others_goes_with_it(instrument_client):
    before = vars(BaseInstrumentor).copy()
    instrument_client()
    assert vars(BaseInstrumentor)["instrument"] is not before["instrument"]
    spanledger.uninstrument()

    assert [vars(BaseInstrumentor)[name] for name in ("instrument", "uninstrument")] == [
        before[name] for name in ("instrument", "uninstrument")
    ]


def test_an_instrumentation_that_fails_fails_as_it_would(theirs, instrument_client, monkeypatch):
    def fails(**_: Any) -> None:
        wrapt.wrap_function_wrapper("openai.resources.chat.completions", "Completions.create", theirs._around)
        raise ValueError("theirs")

    instrument_client()
    monkeypatch.setattr(theirs, "_instrument", fails)
    with pytest.raises(ValueError, match="theirs"):
        theirs.instrument()

    assert layers() == [True, False]
    spanledger.uninstrument()
    unwrap(Completions, "create")


def test_a_call_that_a_callback_has_announced_is_the_callbacks_span(instrument_client, client: openai.OpenAI, spans):
    # As one of LangChain does: the span is not the current one, and what tells of it is never taken off again.
    tracer = trace.get_tracer("opentelemetry.instrumentation.langchain")
    instrument_client()

    def ran(name: str, calls: int) -> None:
        span = tracer.start_span(name)
        span.set_attribute("gen_ai.operation.name", "chat")
        otel_context.attach(otel_context.set_value("suppress_language_model_instrumentation", value=True))
        for _ in range(calls):
            client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hi"}])
        span.end()

    def all_ran() -> None:
        ran("Fake.chat", 0)
        ran("ChatOpenAI.chat", 1)
        ran("ChatOpenAI.chat", 2)
        client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hi"}])

    contextvars.copy_context().run(all_ran)
    used = [span.name for span in spans.all() if "gen_ai.usage.input_tokens" in span.attributes]
    assert used == ["ChatOpenAI.chat", "chat gpt-5", "ChatOpenAI.chat", "chat gpt-5"]
    assert len(spans.all()) == len(used) + 1


class Runs:
    """A framework whose callbacks make spans of runs that begin, in another thread, and say nothing on them."""

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken

    def begun(self, *models: str) -> tuple[Runs, list[trace.Span]]:
        tracer = trace.get_tracer("somebody")
        with ThreadPoolExecutor() as threads:
            return self, [threads.submit(tracer.start_span, f"run of {model}").result() for model in models]

    async def begun_awaiting(self, *models: str) -> tuple[Runs, list[trace.Span]]:
        return await asyncio.to_thread(self.begun, *models)


def spans_of(models: tuple[str, ...], _kwargs: Any, found: tuple[Runs, list[trace.Span]]) -> list[Any]:
    runs, begun = found
    assert not runs.broken
    return list(zip(begun, [None if model == "any" else model for model in models], strict=True))


ANNOUNCING = Library(
    "runs",
    "",
    tuple(Wrap(f"{__name__}:Runs.{name}", no_call, "chat", announced=spans_of) for name in ("begun", "begun_awaiting")),
)
ASK = {"model": "gpt-5", "messages": [{"role": "user", "content": "hi"}]}


def asking(model: str, **more: Any) -> dict[str, Any]:
    return {**ASK, "model": model, **more}


def said(spans: Any) -> list[tuple[str, Any]]:
    """The names of the spans, and what was asked of which model."""
    return [(span.name, span.attributes.get("gen_ai.request.model")) for span in spans.all()]


@pytest.fixture
def announcing() -> Callable[[Callable[[], None]], None]:
    """Run a function where nothing was announced before."""
    spanledger.instrument(Config(dsn="host=/nowhere"), libraries=["openai", ANNOUNCING])
    return contextvars.copy_context().run


def test_calls_that_a_library_announces_are_the_spans_that_were_made_of_them_in_their_order(announcing, client, spans):
    def ran() -> None:
        _, begun = Runs().begun("any", "any", "any")
        client.chat.completions.create(**asking("gpt-5"))
        list(client.chat.completions.create(**asking("gpt-5-mini"), stream=True))
        for span in begun:
            span.end()
        client.chat.completions.create(**asking("gpt-5"))

    announcing(ran)
    assert said(spans) == [
        ("run of any", "gpt-5"), ("run of any", "gpt-5-mini"), ("run of any", None), ("chat gpt-5", "gpt-5")
    ]  # fmt: skip


def test_awaited_calls_that_a_library_announces_are_the_spans_that_were_made_of_them(announcing, awaited, spans):
    async def ran(client: openai.AsyncOpenAI) -> None:
        _, begun = await Runs().begun_awaiting("any", "any")
        await client.chat.completions.create(**asking("gpt-5"))
        await asyncio.create_task(client.chat.completions.create(**asking("gpt-5-mini")))
        for span in begun:
            span.end()

    announcing(lambda: awaited(ran))
    assert said(spans) == [("run of any", "gpt-5"), ("run of any", "gpt-5-mini")]


def test_a_run_inside_a_run_is_the_one_that_asks(announcing, client, spans):
    def ran() -> None:
        _, (outer,) = Runs().begun("any")
        for model in ("gpt-5", "gpt-5-mini"):
            _, (inner,) = Runs().begun("any")
            client.chat.completions.create(**asking(model))
            inner.end()
        outer.end()

    announcing(ran)
    assert said(spans) == [("run of any", "gpt-5"), ("run of any", "gpt-5-mini"), ("run of any", None)]


def test_a_run_of_another_model_is_not_taken_for_the_call(announcing, client, spans):
    def ran() -> None:
        _, (run,) = Runs().begun("llama")
        client.chat.completions.create(**asking("gpt-5"))
        run.end()

    announcing(ran)
    assert said(spans) == [("chat gpt-5", "gpt-5"), ("run of llama", None)]


def test_what_is_embedded_before_an_announced_chat_has_a_span_of_its_own(announcing, client, spans):
    def ran() -> None:
        _, (chat,) = Runs().begun("any")
        client.embeddings.create(model="text-embedding-3-small", input="hi")
        client.chat.completions.create(**asking("gpt-5"))
        chat.end()

    announcing(ran)
    assert said(spans) == [
        ("embeddings text-embedding-3-small", "text-embedding-3-small"), ("run of any", "gpt-5")
    ]  # fmt: skip


def test_what_is_asked_in_the_midst_of_an_announced_call_does_not_take_the_span_of_the_next(announcing, model, spans):
    left = ["gpt-5-mini"]

    def hook(_request: httpx2.Request) -> None:
        if left:
            client.chat.completions.create(**asking(left.pop()))

    def ran() -> None:
        _, begun = Runs().begun("any", "any")
        client.chat.completions.create(**asking("gpt-5"))
        client.chat.completions.create(**asking("gpt-4.1"))
        for span in begun:
            span.end()

    transport = httpx2.Client(event_hooks={"request": [hook]})
    with openai.OpenAI(base_url=model.url, api_key="offline", max_retries=0, http_client=transport) as client:
        announcing(ran)
    assert said(spans) == [("chat gpt-5-mini", "gpt-5-mini"), ("run of any", "gpt-5"), ("run of any", "gpt-4.1")]


def test_where_the_announced_spans_are_not_to_be_found_the_framework_runs_as_it_would(
    announcing, client, spans, caplog
):
    def ran() -> None:
        runs = Runs(broken=True)
        found, begun = runs.begun("any")
        client.chat.completions.create(**ASK)
        begun[0].end()
        assert found is runs

    announcing(ran)
    assert said(spans) == [("chat gpt-5", "gpt-5"), ("run of any", None)]
    assert "are not found" in caplog.text


def test_what_a_stream_has_used_is_said_though_whoever_made_its_span_ends_it_with_the_last_chunk(
    instrument_client, client, spans
):
    instrument_client(prices=[Price("gpt-*", input=Money(1, "USD"), output=Money(1, "USD"))])
    span = trace.get_tracer("somebody").start_span("theirs", attributes={"gen_ai.operation.name": "chat"})
    with trace.use_span(span):
        for chunk in client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}):
            if chunk.usage:
                span.end()
    attributes = spans.one("theirs").attributes
    assert attributes["gen_ai.usage.output_tokens"] > 0
    assert attributes["spanledger.cost"][0].endswith(" USD")


@pytest.mark.parametrize(("asked", "kinds"), [({}, {"input", "output"}), ({"include_usage": True}, set())])
def test_what_whoever_has_made_the_span_is_not_told_is_counted(
    asked, kinds, instrument_client, client, measured, spans
):
    # They count what they see, and the usage that only we have asked for is kept from them.
    instrument_client()
    tracer = trace.get_tracer("opentelemetry.instrumentation.langchain")
    ask = {"model": "gpt-5", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with tracer.start_as_current_span("ChatOpenAI.chat", attributes={"gen_ai.operation.name": "chat"}):
        list(client.chat.completions.create(**ask, **({"stream_options": asked} if asked else {})))
    assert [span.name for span in spans.all()] == ["ChatOpenAI.chat"]

    points = measured.points()
    assert {labels[semconv.TOKEN_TYPE] for labels, _ in points.get(instruments.TOKEN_USAGE, ())} == kinds
    assert instruments.OPERATION_DURATION not in points
