"""The rest of the OpenAI client: responses, embeddings, and Azure's doors to them."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from typing import Any

import openai
import pydantic
import pytest
from openai.types.responses import Response
from openai_world import ASK, SECRET, SPAN
from opentelemetry.trace import StatusCode
from websockets.sync.server import serve

pytestmark = pytest.mark.usefixtures("instrumented_client")

ASKED = {"model": "gpt-5", "input": "hi"}
ALL_USED = {
    "input_tokens": 1000,
    "output_tokens": 50,
    "cache_read.input_tokens": 200,
    "cache_write.input_tokens": 100,
    "reasoning.output_tokens": 20,
}


def used(span: Any) -> dict[str, Any]:
    return {
        name.removeprefix("gen_ai.usage."): value
        for name, value in span.attributes.items()
        if name.startswith("gen_ai.usage.")
    }


# --- responses


def test_a_response_is_a_span_with_what_was_asked_and_used(client, spans):
    answer = client.responses.create(**ASKED, user="used", max_output_tokens=100, temperature=0.5)
    assert type(answer) is Response
    span = spans.one(SPAN)
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.max_tokens": 100,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.model": answer.model,
        "gen_ai.response.id": answer.id,
        "gen_ai.response.finish_reasons": ("completed",),
    }
    assert {name: span.attributes[name] for name in expected} == expected
    assert used(span) == ALL_USED


def test_a_response_that_is_cut_off_says_why(client, spans):
    client.responses.create(**ASKED, max_output_tokens=1)
    assert spans.one(SPAN).attributes["gen_ai.response.finish_reasons"] == ("max_output_tokens",)


STREAMS = {
    "create": lambda client: list(client.responses.create(**ASKED, user="used", stream=True)),
    "helper": lambda client: helped(client.responses.stream(**ASKED, user="used")),
    "raw": lambda client: list(client.responses.with_raw_response.create(**ASKED, user="used", stream=True).parse()),
}


def helped(manager: Any) -> None:
    with manager as stream:
        assert stream.get_final_response().output_text == "one two three"


@pytest.mark.parametrize("drain", STREAMS.values(), ids=STREAMS)
def test_a_streamed_response_is_one_span_however_it_is_asked_for(drain, client, spans):
    drain(client)
    span = spans.one(SPAN)
    assert used(span) == ALL_USED
    assert span.attributes["gen_ai.request.stream"] is True
    assert 0 < span.attributes["gen_ai.response.time_to_first_chunk"] < 60


class Number(pydantic.BaseModel):
    n: int


def test_an_awaited_response_is_one_span_however_it_is_asked_for(awaited, spans):
    async def every(client: openai.AsyncOpenAI) -> None:
        assert type(await client.responses.create(**ASKED, user="used")) is Response
        async for _ in await client.responses.create(**ASKED, user="used", stream=True):
            pass
        async with client.responses.stream(**ASKED, user="used") as stream:
            assert (await stream.get_final_response()).output_text == "one two three"
        raw = await client.responses.with_raw_response.create(**ASKED, user="used")
        assert raw.parse().output_text == "one two three"
        parsed = await client.responses.parse(**ASKED, user="json", text_format=Number)
        assert parsed.output_parsed == Number(n=7)

    awaited(every)
    assert [used(span) for span in spans.all(SPAN)[:4]] == [ALL_USED] * 4
    assert len(spans.all(SPAN)) == 5


def test_a_stream_broken_off_knows_who_answered(client, spans):
    with client.responses.create(**ASKED, stream=True) as stream:
        next(stream)
    assert spans.one(SPAN).attributes["gen_ai.response.model"] == "gpt-5-2025-08-07"


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_of_the_provider_passes_through_with_its_status(stream, client, spans):
    with pytest.raises(openai.RateLimitError, match="slow down"):
        client.responses.create(**ASKED, user="busy", stream=stream)
    span = spans.one(SPAN)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["http.response.status_code"] == 429


def test_nothing_that_was_said_is_on_a_span(client, spans):
    client.responses.create(model="gpt-5", input=SECRET)
    list(client.responses.create(model="gpt-5", input=SECRET, stream=True))
    assert not any(text in span.to_json() for span in spans.all() for text in (SECRET, "three"))


# --- embeddings


def test_embeddings_are_a_span(client, awaited, spans):
    answer = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    raw = client.embeddings.with_raw_response.create(model="text-embedding-3-small", input=[[1, 2], [3]])
    awaited(lambda client: client.embeddings.create(model="text-embedding-3-small", input="a"))
    assert raw.parse().usage.prompt_tokens == 3
    for span, tokens in zip(
        spans.all("embeddings text-embedding-3-small"), (answer.usage.prompt_tokens, 3, 1), strict=True
    ):
        assert span.attributes["gen_ai.operation.name"] == "embeddings"
        assert span.attributes["gen_ai.usage.input_tokens"] == tokens


# --- Azure


def test_azure_goes_through_the_same_functions(model, spans):
    with openai.AzureOpenAI(
        azure_endpoint=model.url.removesuffix("/v1"), api_key="k", api_version="2025-03-01-preview", max_retries=0
    ) as client:
        client.chat.completions.create(**ASK, user="used")
        client.responses.create(**ASKED, user="used")
        client.embeddings.create(model="text-embedding-3-small", input="a")
    assert [used(span) for span in spans.all(SPAN)] == [ALL_USED] * 2
    assert {span.attributes["gen_ai.provider.name"] for span in spans.all()} == {"azure.ai.openai"}


# --- realtime


def test_a_realtime_session_passes_untouched_and_is_neither_traced_nor_charged(spans, ledger):
    def answer(socket: Any) -> None:
        for asked in socket:
            socket.send(json.dumps({"type": "error", "event_id": "e-1", "error": {"message": asked, "type": "t"}}))

    with serve(answer, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}/v1"
        with (
            openai.OpenAI(api_key="k", websocket_base_url=url) as client,
            client.realtime.connect(model="gpt-realtime") as connection,
        ):
            connection.send({"type": "response.create"})
            said = connection.recv()
    assert json.loads(said.error.message) == {"type": "response.create"}
    assert (spans.all(), ledger.calls()) == ([], [])


# --- what is given back


def test_answers_are_copied_and_pickled_as_ever(client):
    for answer in (client.chat.completions.create(**ASK), client.responses.create(**ASKED)):
        assert copy.deepcopy(answer) == answer
        assert pickle.loads(pickle.dumps(answer)) == answer


def test_a_method_of_a_client_is_copied_and_pickled_as_ever(client):
    create = client.chat.completions.create
    assert copy.copy(create).__self__ is create.__self__
    assert isinstance(client.responses, openai.resources.responses.Responses)
