"""Streams and raw responses of the OpenAI client: watched, without standing in the way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai_world import ASK, SPAN, hung_up
from opentelemetry.trace import StatusCode

from spanledger.testing import Fail, ModelServer, Raw, Say


def texts(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


# --- streams


@pytest.mark.usefixtures("instrumented_client")
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


@pytest.mark.usefixtures("instrumented_client")
@pytest.mark.parametrize(("include", "chunks_with_usage"), [(True, 1), (False, 0)])
def test_a_caller_who_decides_about_usage_gets_what_was_asked_for(include, chunks_with_usage, client, model, spans):
    options = {"include_usage": include}
    chunks = list(client.chat.completions.create(**ASK, stream=True, stream_options=options))
    assert model.requests[0]["stream_options"] == options
    assert sum(chunk.usage is not None for chunk in chunks) == chunks_with_usage
    assert ("gen_ai.usage.input_tokens" in spans.one(SPAN).attributes) is include


@pytest.mark.usefixtures("instrumented_client")
def test_a_caller_who_asks_for_usage_in_the_body_gets_it(client, spans):
    asked = {"extra_body": {"stream_options": {"include_usage": True}}}
    chunks = list(client.chat.completions.create(**ASK, stream=True, **asked))
    assert chunks[-1].usage.completion_tokens == spans.one(SPAN).attributes["gen_ai.usage.output_tokens"]


STRICT = "Extra inputs are not permitted: stream_options"


def strict(request: dict[str, Any]) -> Say | Fail:
    """A server that refuses what it does not know."""
    return (
        Fail(422, STRICT) if "stream_options" in request or request.get("user") == "refused" else Say("one two three")
    )


@pytest.mark.usefixtures("instrumented_client")
def test_a_server_that_refuses_what_we_add_is_asked_as_the_caller_wrote_it(spans):
    with ModelServer(strict) as model:
        client = openai.OpenAI(base_url=model.url, api_key="offline", max_retries=0)
        for _ in range(2):
            assert texts(list(client.chat.completions.create(**ASK, stream=True))) == "one two three"
        assert ["stream_options" in request for request in model.requests] == [True, False, False]

        async def ask() -> str:
            async with openai.AsyncOpenAI(base_url=model.url, api_key="offline", max_retries=0) as client:
                stream = await client.chat.completions.create(**ASK | {"model": "gpt-5-mini"}, stream=True)
                return texts([chunk async for chunk in stream])

        assert asyncio.run(ask()) == "one two three"
        with pytest.raises(openai.UnprocessableEntityError, match=STRICT):
            client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
        with pytest.raises(openai.UnprocessableEntityError, match=STRICT):
            client.chat.completions.create(**ASK, user="refused")
        assert len(model.requests) == 7
    assert [span.attributes["gen_ai.response.model"] for span in spans.all(SPAN)[:2]] == ["gpt-5-2025-08-07"] * 2
    assert len(spans.all()) == 5


@pytest.mark.usefixtures("instrumented_client")
@pytest.mark.parametrize("more", [{}, {"stream_options": None}], ids=["absent", "null"])
def test_what_is_asked_again_is_what_the_caller_wrote(more):
    with ModelServer(strict) as model:
        client = openai.OpenAI(base_url=model.url, api_key="offline", max_retries=0)
        wanted = {"model": "gpt-5-nano" if more else "gpt-5-mini", "messages": iter(ASK["messages"])}
        if more:
            with pytest.raises(openai.UnprocessableEntityError):
                list(client.chat.completions.create(**wanted, **more, stream=True))
        else:
            assert texts(list(client.chat.completions.create(**wanted, stream=True))) == "one two three"
        first, second = model.requests
    added = {"stream_options": {"include_usage": True}}
    assert second["messages"] == ASK["messages"]
    assert (first, second) == (second | added, second | more)


def picky(request: dict[str, Any]) -> Say | Fail:
    """A server that repeats what it was sent whatever it minds."""
    return Fail(400, f"no such user: {request}") if request.get("user") == "refused" else Say("one two three")


@pytest.mark.usefixtures("instrumented_client")
def test_a_server_that_speaks_of_what_we_add_and_minds_something_else_is_asked_for_usage_as_before(spans):
    with ModelServer(picky) as model:
        client = openai.OpenAI(base_url=model.url, api_key="offline", max_retries=0)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**ASK, stream=True, user="refused")
        list(client.chat.completions.create(**ASK, stream=True))
        assert "stream_options" in model.requests[-1]
    assert spans.all(SPAN)[-1].attributes["gen_ai.usage.output_tokens"] > 0


@pytest.mark.usefixtures("instrumented_client")
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


@pytest.mark.usefixtures("instrumented_client")
@pytest.mark.parametrize("use", [broken_off, closed, left, never_begun, failed_in_the_loop], ids=lambda f: f.__name__)
def test_a_stream_that_is_not_drained_ends_its_span_once_it_is_dropped(use, client, spans):
    stream = client.chat.completions.create(**ASK, stream=True)
    use(stream)
    del stream
    gc.collect()
    span = spans.one(SPAN)
    assert span.status.status_code is StatusCode.UNSET
    assert ("gen_ai.response.id" in span.attributes) is (use is not never_begun)


@pytest.mark.usefixtures("instrumented_client")
@pytest.mark.parametrize("use", [closed, left], ids=lambda f: f.__name__)
def test_a_closed_stream_ends_its_span_at_once(use, client, spans):
    stream = client.chat.completions.create(**ASK, stream=True)
    use(stream)
    assert spans.one(SPAN).attributes["gen_ai.response.id"]
    assert stream.response.is_closed


HELPERS = {
    "chat": lambda client: client.chat.completions.stream(**ASK),
    "response": lambda client: client.responses.stream(model="gpt-5", input="hi"),
}


@pytest.mark.usefixtures("instrumented_client")
@pytest.mark.parametrize("helper", HELPERS.values(), ids=HELPERS)
def test_a_helper_that_is_left_early_ends_its_span_at_once(helper, client, awaited, spans):
    with helper(client) as kept:
        next(kept)
    assert spans.one(SPAN).attributes["gen_ai.response.id"]

    async def leave(client: openai.AsyncOpenAI) -> None:
        async with helper(client) as kept:
            await anext(kept)
        assert spans.all(SPAN)[1].attributes["gen_ai.response.id"]
        del kept

    awaited(leave)
    assert len(spans.all(SPAN)) == 2


@pytest.mark.usefixtures("instrumented_client")
def test_an_awaited_stream_that_is_closed_ends_its_span_at_once(awaited, spans):
    async def close(client: openai.AsyncOpenAI) -> None:
        async with await client.chat.completions.create(**ASK, stream=True) as stream:
            await anext(stream)
        assert spans.one(SPAN).attributes["gen_ai.response.id"]
        assert stream.response.is_closed

    awaited(close)
    assert len(spans.all(SPAN)) == 1


@pytest.mark.usefixtures("instrumented_client")
def test_a_stream_that_another_thread_closes_while_it_is_read_ends_its_span_at_once(spans):
    first, closed = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield next(hung_up())
        closed.wait(30)

    def read() -> None:
        with contextlib.suppress(Exception):  # of what kind is the client's business, and has changed
            for _ in stream:
                first.set()

    with ModelServer(lambda _request: Raw(body())) as server:
        client = openai.OpenAI(base_url=server.url, api_key="offline", max_retries=0)
        stream = client.chat.completions.create(**ASK, stream=True)
        reader = threading.Thread(target=read)
        reader.start()
        assert first.wait(30)
        stream.close()
        assert spans.one(SPAN).attributes["gen_ai.response.id"] == "c-1"
        closed.set()
    reader.join(30)
    assert not reader.is_alive()
    assert len(spans.all(SPAN)) == 1


@pytest.mark.usefixtures("instrumented_client")
def test_an_awaited_stream_that_is_dropped_ends_its_span_once(awaited, spans):
    async def drop(client: openai.AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(**ASK, stream=True)
        await anext(stream)

    awaited(drop)
    gc.collect()
    assert spans.one(SPAN).attributes["gen_ai.response.id"]


# --- raw responses


@pytest.mark.usefixtures("instrumented_client")
def test_a_raw_response_is_measured_and_read_as_ever(client, awaited, spans):
    raw = client.chat.completions.with_raw_response.create(**ASK)
    assert raw.headers["x-request-id"].startswith("req_")
    assert type(raw.parse()) is ChatCompletion
    assert spans.one(SPAN).attributes["gen_ai.response.id"] == raw.parse().id
    raw = awaited(lambda client: client.chat.completions.with_raw_response.create(**ASK))
    assert spans.all(SPAN)[1].attributes["gen_ai.response.id"] == raw.parse().id


@pytest.mark.usefixtures("instrumented_client")
def test_a_raw_stream_is_measured_and_read_as_ever(client, spans):
    raw = client.chat.completions.with_raw_response.create(**ASK, stream=True)
    assert raw.headers["x-request-id"].startswith("req_")
    assert texts(list(raw.parse())) == "one two three"
    assert spans.one(SPAN).attributes["gen_ai.usage.output_tokens"] > 0


@pytest.mark.usefixtures("instrumented_client")
def test_a_response_the_caller_reads_piece_by_piece_is_left_alone(client, model, spans):
    with client.chat.completions.with_streaming_response.create(**ASK) as response:
        assert spans.all(SPAN) == [], "it goes on as long as the caller reads"
        assert '"one two three"' in "".join(response.iter_text())
    with client.chat.completions.with_streaming_response.create(**ASK, stream=True) as response:
        assert texts(list(response.parse())) == "one two three"
    assert "stream_options" not in model.requests[1]
    assert len(spans.all(SPAN)) == 2


@pytest.mark.usefixtures("instrumented_client")
def test_a_stream_that_the_caller_asks_for_twice_is_counted_once(client, spans):
    with client.chat.completions.with_streaming_response.create(**ASK, stream=True) as response:
        assert response.parse() is response.parse()
        assert texts(list(response.parse())) == "one two three"
    assert spans.one(SPAN).attributes["gen_ai.response.finish_reasons"] == ("stop",)


@pytest.mark.usefixtures("instrumented_client")
@pytest.mark.parametrize("read", ["read", "parse"])
def test_garbage_that_the_caller_reads_is_the_caller_s_alone(read, spans):
    with ModelServer(lambda _request: Raw(b'[1, {"choices": 1}]', "application/json")) as model:
        client = openai.OpenAI(base_url=model.url, api_key="offline", max_retries=0)
        with client.chat.completions.with_streaming_response.create(**ASK) as response:
            assert getattr(response, read)()

        async def ask() -> None:
            client = openai.AsyncOpenAI(base_url=model.url, api_key="offline", max_retries=0)
            async with client, client.chat.completions.with_streaming_response.create(**ASK) as response:
                assert await getattr(response, read)()

        asyncio.run(ask())
    assert len(spans.all(SPAN)) == 2


READ_WHOLE = {
    "parsed": lambda response: response.parse().id,
    "as json": lambda response: response.json()["id"],
    "as text": lambda response: response.text(),
}


@pytest.mark.usefixtures("instrumented_client")
@pytest.mark.parametrize("read", READ_WHOLE.values(), ids=READ_WHOLE)
def test_a_response_the_caller_reads_whole_is_measured(read, client, spans):
    with client.chat.completions.with_streaming_response.create(**ASK, user="used") as response:
        said = read(response)
    attributes = spans.one(SPAN).attributes
    assert attributes["gen_ai.response.id"] in said
    assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (1000, 50)


@pytest.mark.usefixtures("instrumented_client")
def test_an_awaited_response_the_caller_reads_is_measured(awaited, spans):
    async def read(client: openai.AsyncOpenAI) -> tuple[str, str]:
        async with client.chat.completions.with_streaming_response.create(**ASK) as response:
            whole = (await response.parse()).choices[0].message.content
        async with client.chat.completions.with_streaming_response.create(**ASK, stream=True) as response:
            return whole, texts([chunk async for chunk in await response.parse()])

    assert awaited(read) == ("one two three", "one two three")
    whole, streamed = spans.all(SPAN)
    assert whole.attributes["gen_ai.usage.output_tokens"] > 0
    assert streamed.attributes["gen_ai.response.finish_reasons"] == ("stop",)
