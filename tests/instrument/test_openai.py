"""The OpenAI client, against a server that speaks its protocol: traced, measured, limited, and otherwise as it was."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import operator
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from opentelemetry.trace import SpanKind, StatusCode

import spanledger
from spanledger import Balance, Budget, Calls, Config, Ledger, Tokens, errors, workflow
from spanledger.core.money import Amount
from spanledger.testing import CallTool, Fail, ModelServer, Say

SPAN = "chat gpt-5"
SECRET = "the moon is made of cheese"
ASK = {"model": "gpt-5", "messages": [{"role": "user", "content": SECRET}]}


def script(request: dict) -> Say | CallTool | Fail:
    wanted = request.get("user", "say")
    return {
        "say": Say("one two three"),
        "tool": CallTool("refund", {"order_id": "o-1"}),
        "json": Say('{"n": 7}'),
        "busy": Fail(429, "slow down"),
    }[wanted]


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer(script) as model:
        yield model


@pytest.fixture
def client(model: ModelServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=model.url, api_key="offline", max_retries=0) as client:
        yield client


@pytest.fixture
def awaited(model: ModelServer) -> Callable[..., object]:
    """Run a coroutine function with an asynchronous client in a loop of its own."""

    def run(function: Callable[..., object]) -> object:
        async def main() -> object:
            async with openai.AsyncOpenAI(base_url=model.url, api_key="offline", max_retries=0) as client:
                return await function(client)

        return asyncio.run(main())

    return run


@pytest.fixture
def instrument() -> Callable[..., None]:
    """Instrument the client; no ledger is there unless the test gives one, and none is asked without need."""
    return lambda **fields: spanledger.instrument(
        Config(**{"dsn": "host=/nowhere", "ledger_timeout_s": 0.1} | fields), libraries=["openai"]
    )


@pytest.fixture
def instrumented(instrument: Callable[..., None]) -> None:
    instrument()


# --- spans


@pytest.mark.usefixtures("instrumented")
def test_a_completion_is_a_span_with_what_was_asked_and_used(client, model, spans):
    answer = client.chat.completions.create(**ASK, temperature=0.5, max_completion_tokens=20, top_p=1)
    assert type(answer) is ChatCompletion
    span = spans.one(SPAN)
    assert span.kind is SpanKind.CLIENT
    host, _, port = model.url.removeprefix("http://").removesuffix("/v1").partition(":")
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 20,
        "gen_ai.request.top_p": 1,
        "gen_ai.response.model": answer.model,
        "gen_ai.response.id": answer.id,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": answer.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": answer.usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "server.address": host,
        "server.port": int(port),
    }
    assert {name: span.attributes[name] for name in expected} == expected
    assert span.status.status_code is StatusCode.UNSET
    assert answer.model != "gpt-5"


@pytest.mark.usefixtures("instrumented")
def test_an_awaited_completion_is_a_span_too(awaited, spans):
    answer = awaited(lambda client: client.chat.completions.create(**ASK))
    assert type(answer) is ChatCompletion
    assert spans.one(SPAN).attributes["gen_ai.response.id"] == answer.id


@pytest.mark.usefixtures("instrumented")
def test_a_tool_call_is_its_finish_reason(client, spans):
    client.chat.completions.create(**ASK, user="tool")
    assert spans.one(SPAN).attributes["gen_ai.response.finish_reasons"] == ("tool_calls",)


class Number(pydantic.BaseModel):
    n: int


@pytest.mark.usefixtures("instrumented")
def test_a_parsed_completion_is_one_span(client, awaited, spans):
    parsed = client.chat.completions.parse(**ASK, user="json", response_format=Number)
    assert parsed.choices[0].message.parsed == Number(n=7)
    assert spans.one(SPAN).attributes["gen_ai.response.id"] == parsed.id
    parsed = awaited(lambda client: client.chat.completions.parse(**ASK, user="json", response_format=Number))
    assert parsed.choices[0].message.parsed == Number(n=7)
    assert len(spans.all(SPAN)) == 2


@pytest.mark.usefixtures("instrumented")
def test_the_helper_for_streams_is_one_span(client, spans):
    with client.chat.completions.stream(**ASK) as stream:
        assert stream.get_final_completion().choices[0].message.content == "one two three"
    assert spans.one(SPAN).attributes["gen_ai.usage.output_tokens"] > 0


@pytest.mark.usefixtures("instrumented")
def test_nothing_that_was_said_is_on_a_span(client, spans):
    client.chat.completions.create(**ASK)
    list(client.chat.completions.create(**ASK, stream=True))
    assert len(spans.all(SPAN)) == 2
    written = "".join(span.to_json() for span in spans.all())
    assert SECRET not in written
    assert "three" not in written


@pytest.mark.usefixtures("instrumented")
def test_the_span_is_a_child_of_the_workflow_around_it(client, spans):
    with workflow("w"):
        client.chat.completions.create(**ASK)
    assert spans.one(SPAN).parent.span_id == spans.one("invoke_agent").context.span_id


# --- streams


def texts(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@pytest.mark.usefixtures("instrumented")
def test_a_stream_is_measured_and_the_chunk_with_its_usage_hidden(client, model, spans):
    stream = client.chat.completions.create(**ASK, stream=True)
    assert type(stream) is openai.Stream
    assert spans.all() == []
    chunks = list(stream)
    assert texts(chunks) == "one two three"
    assert model.requests[0]["stream_options"] == {"include_usage": True}
    span = spans.one(SPAN)
    assert span.attributes["gen_ai.request.stream"] is True
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert span.attributes["gen_ai.response.id"] == chunks[0].id
    assert span.attributes["gen_ai.usage.input_tokens"] > 0
    assert span.attributes["gen_ai.usage.output_tokens"] > 0
    assert 0 < span.attributes["gen_ai.response.time_to_first_chunk"] < 60


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize(("include", "chunks_with_usage"), [(True, 1), (False, 0)])
def test_a_caller_who_decides_about_usage_gets_what_was_asked_for(include, chunks_with_usage, client, model, spans):
    options = {"include_usage": include}
    chunks = list(client.chat.completions.create(**ASK, stream=True, stream_options=options))
    assert model.requests[0]["stream_options"] == options
    assert sum(chunk.usage is not None for chunk in chunks) == chunks_with_usage
    assert ("gen_ai.usage.input_tokens" in spans.one(SPAN).attributes) is include


@pytest.mark.usefixtures("instrumented")
def test_an_awaited_stream_is_measured(awaited, spans):
    async def drain(client: openai.AsyncOpenAI) -> list[ChatCompletionChunk]:
        stream = await client.chat.completions.create(**ASK, stream=True)
        assert type(stream) is openai.AsyncStream
        return [chunk async for chunk in stream]

    assert texts(awaited(drain)) == "one two three"
    assert spans.one(SPAN).attributes["gen_ai.usage.output_tokens"] > 0


def broken_off(stream: openai.Stream) -> None:
    for _ in stream:
        break


def closed(stream: openai.Stream) -> None:
    next(stream)
    stream.close()


def left(stream: openai.Stream) -> None:
    with stream:
        next(stream)


def never_begun(stream: openai.Stream) -> None:
    pass


def failed_in_the_loop(stream: openai.Stream) -> None:
    with contextlib.suppress(ValueError):
        for _ in stream:
            raise ValueError


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("use", [broken_off, closed, left, never_begun, failed_in_the_loop], ids=lambda f: f.__name__)
def test_a_stream_that_is_not_drained_ends_its_span_once_it_is_dropped(use, client, spans):
    stream = client.chat.completions.create(**ASK, stream=True)
    use(stream)
    del stream
    gc.collect()
    span = spans.one(SPAN)
    assert span.status.status_code is StatusCode.UNSET
    assert ("gen_ai.response.id" in span.attributes) is (use is not never_begun)


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("use", [closed, left], ids=lambda f: f.__name__)
def test_a_closed_stream_ends_its_span_at_once(use, client, spans):
    stream = client.chat.completions.create(**ASK, stream=True)
    use(stream)
    assert spans.one(SPAN).attributes["gen_ai.response.id"]
    assert stream.response.is_closed


@pytest.mark.usefixtures("instrumented")
def test_an_awaited_stream_that_is_closed_ends_its_span_at_once(awaited, spans):
    async def close(client: openai.AsyncOpenAI) -> None:
        async with await client.chat.completions.create(**ASK, stream=True) as stream:
            await anext(stream)
        assert spans.one(SPAN).attributes["gen_ai.response.id"]
        assert stream.response.is_closed

    awaited(close)
    assert len(spans.all(SPAN)) == 1


@pytest.mark.usefixtures("instrumented")
def test_an_awaited_stream_that_is_dropped_ends_its_span_once(awaited, spans):
    async def drop(client: openai.AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(**ASK, stream=True)
        await anext(stream)

    awaited(drop)
    gc.collect()
    assert spans.one(SPAN).attributes["gen_ai.response.id"]


# --- raw responses


@pytest.mark.usefixtures("instrumented")
def test_a_raw_response_is_measured_and_read_as_ever(client, awaited, spans):
    raw = client.chat.completions.with_raw_response.create(**ASK)
    assert raw.headers["x-request-id"].startswith("req_")
    assert type(raw.parse()) is ChatCompletion
    assert spans.one(SPAN).attributes["gen_ai.response.id"] == raw.parse().id
    raw = awaited(lambda client: client.chat.completions.with_raw_response.create(**ASK))
    assert spans.all(SPAN)[1].attributes["gen_ai.response.id"] == raw.parse().id


@pytest.mark.usefixtures("instrumented")
def test_a_raw_stream_is_measured_and_read_as_ever(client, spans):
    raw = client.chat.completions.with_raw_response.create(**ASK, stream=True)
    assert raw.headers["x-request-id"].startswith("req_")
    assert texts(list(raw.parse())) == "one two three"
    assert spans.one(SPAN).attributes["gen_ai.usage.output_tokens"] > 0


@pytest.mark.usefixtures("instrumented")
def test_a_response_the_caller_reads_piece_by_piece_is_left_alone(client, model, spans):
    with client.chat.completions.with_streaming_response.create(**ASK) as response:
        assert spans.one(SPAN).attributes["gen_ai.request.model"] == "gpt-5"
        assert '"one two three"' in "".join(response.iter_text())
    with client.chat.completions.with_streaming_response.create(**ASK, stream=True) as response:
        assert texts(list(response.parse())) == "one two three"
    assert "stream_options" not in model.requests[1]
    assert len(spans.all(SPAN)) == 2


# --- errors


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("more", [{}, {"stream": True}])
def test_an_error_of_the_provider_passes_through_and_is_on_the_span(more, client, awaited, spans):
    with pytest.raises(openai.RateLimitError, match="slow down") as caught:
        client.chat.completions.create(**ASK, **more, user="busy")
    assert caught.value.status_code == 429
    with pytest.raises(openai.RateLimitError, match="slow down"):
        awaited(lambda client: client.chat.completions.create(**ASK, **more, user="busy"))
    for span in spans.all(SPAN):
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == "openai.RateLimitError"
    assert len(spans.all(SPAN)) == 2


@pytest.mark.usefixtures("instrumented")
def test_a_call_the_client_itself_refuses_fails_as_without_us(client):
    with pytest.raises(TypeError, match="Missing required arguments"):
        client.chat.completions.create(messages=[])


# --- budgets


@pytest.fixture
def limited(instrument: Callable[..., None], dsn: str, ledger: Ledger) -> Callable[..., Callable[[], Balance]]:
    """Instrument the client with a budget for chats; gives back how to ask how it stands."""

    def limit(amount: Amount) -> Callable[[], Balance]:
        instrument(dsn=dsn, budgets=[Budget("b", amount, match="gpt-*", operations=("chat",))])
        return lambda: ledger.budget("b")

    return limit


def test_beyond_a_budget_of_calls_nothing_is_sent(limited, client, awaited, model, spans):
    balance = limited(Calls(2))
    client.chat.completions.create(**ASK)
    list(client.chat.completions.create(**ASK, stream=True))
    for refused in (
        lambda: client.chat.completions.create(**ASK),
        lambda: client.chat.completions.create(**ASK, stream=True),
        lambda: client.chat.completions.parse(**ASK, response_format=Number),
        lambda: client.chat.completions.with_raw_response.create(**ASK),
        lambda: awaited(lambda client: client.chat.completions.create(**ASK)),
    ):
        with pytest.raises(errors.BudgetExceeded) as caught:
            refused()
        assert (caught.value.budget, caught.value.remaining) == ("b", Calls(0))
        span = spans.all(SPAN)[-1]
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["spanledger.verdict"] == "budget_exceeded"
    assert len(model.requests) == 2
    assert balance().spent == Calls(2)


def test_a_budget_of_tokens_is_settled_with_what_was_really_used(limited, client, awaited):
    balance = limited(Tokens(100_000))
    answers = [client.chat.completions.create(**ASK), awaited(lambda client: client.chat.completions.create(**ASK))]
    used = sum(answer.usage.total_tokens for answer in answers)
    assert balance().spent == Tokens(used)
    list(client.chat.completions.create(**ASK, stream=True))
    # The server counts an answer by its text, streamed or whole.
    assert balance().spent == Tokens(used + answers[0].usage.total_tokens)
    assert balance().held == Tokens(0)


def test_a_spent_budget_of_tokens_admits_no_further_call(limited, client, model):
    limited(Tokens(5))
    client.chat.completions.create(**ASK)
    with pytest.raises(errors.BudgetExceeded) as caught:
        client.chat.completions.create(**ASK)
    assert caught.value.spent.steps > 5, "what was used beyond the limit is recorded, not hidden"
    assert len(model.requests) == 1


def test_a_failed_call_and_a_dropped_stream_hold_nothing(limited, client):
    balance = limited(Calls(9))
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(**ASK, user="busy")
    assert (balance().spent, balance().held) == (Calls(0), Calls(0))
    broken_off(client.chat.completions.create(**ASK, stream=True))
    gc.collect()
    assert (balance().spent, balance().held) == (Calls(1), Calls(0))


@pytest.mark.usefixtures("instrumented")
def test_a_call_that_no_budget_covers_does_not_ask_the_ledger(client, spans):
    client.chat.completions.create(**ASK)
    assert "spanledger.verdict" not in spans.one(SPAN).attributes


# --- putting it on and taking it off


def test_uninstrument_puts_back_the_very_functions(instrument):
    def functions() -> list[object]:
        classes = (openai.resources.chat.Completions, openai.resources.chat.AsyncCompletions)
        return [vars(cls)[name] for cls in classes for name in ("create", "parse")]

    before = functions()
    instrument()
    instrument()
    assert not any(map(operator.is_, functions(), before))
    spanledger.uninstrument()
    assert all(map(operator.is_, functions(), before))


def test_instrumented_twice_a_call_is_one_span(instrument, client, spans):
    instrument()
    instrument()
    client.chat.completions.create(**ASK)
    spans.one(SPAN)


def test_uninstrumented_a_call_is_no_span(instrument, client, spans):
    instrument()
    spanledger.uninstrument()
    client.chat.completions.create(**ASK)
    assert spans.all() == []


PROGRAM = """
    import sys
    {before}
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    import spanledger
    from spanledger import Config

    exporter = InMemorySpanExporter()
    trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    report = spanledger.instrument(Config(dsn="host=/nowhere"))
    assert "openai" in report.attached, report
    {after}
    client = openai.OpenAI(base_url=sys.argv[1], api_key="offline")
    client.chat.completions.create(model="gpt-5", messages=[{{"role": "user", "content": "hi"}}])
    print([span.name for span in exporter.get_finished_spans()])
"""


@pytest.mark.parametrize("where", ["before", "after"])
def test_it_does_not_matter_whether_the_library_was_imported_first(where, model):
    check = "assert 'openai' not in sys.modules"
    places = {"before": ("import openai", ""), "after": ("", f"{check}\n    import openai")}[where]
    program = textwrap.dedent(PROGRAM.format(before=places[0], after=places[1]))
    done = subprocess.run([sys.executable, "-c", program, model.url], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("['chat gpt-5']", 0), done.stderr
