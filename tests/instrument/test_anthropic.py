"""The Anthropic client, against a server that speaks its protocol: traced, and otherwise as it was."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import operator
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import anthropic
import pydantic
import pytest
from anthropic.types import Message
from anthropic_world import SPAN, TOOL, asking, script
from opentelemetry.trace import SpanKind, StatusCode
from settled import until_nothing_is_held

import spanledger
from spanledger import Balance, Budget, Config, Ledger, Money, Tokens, errors, workflow
from spanledger.core.money import Amount
from spanledger.testing import ModelServer, Raw

SPANS_ITSELF = "open_telemetry" in inspect.signature(anthropic.Anthropic).parameters


class Number(pydantic.BaseModel):
    n: int


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer(script) as model:
        yield model


@pytest.fixture
def client(model: ModelServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=model.anthropic_url, api_key="offline", max_retries=0) as client:
        yield client


@pytest.fixture
def awaited(model: ModelServer) -> Callable[..., Any]:
    """Run a coroutine function with an asynchronous client in a loop of its own."""

    def run(function: Callable[..., Any]) -> Any:
        async def main() -> Any:
            async with anthropic.AsyncAnthropic(
                base_url=model.anthropic_url, api_key="offline", max_retries=0
            ) as client:
                return await function(client)

        return asyncio.run(main())

    return run


@pytest.fixture
def instrumented() -> None:
    spanledger.instrument(Config(dsn="host=/nowhere", ledger_timeout_s=0.1), libraries=["anthropic"])


@pytest.fixture
def limited(dsn: str, ledger: Ledger) -> Callable[[Amount], Callable[[], Balance]]:
    """Instrument with a budget; gives back how to ask how it stands."""

    def limit(amount: Amount) -> Callable[[], Balance]:
        spanledger.instrument(Config(dsn=dsn, budgets=[Budget("b", amount)]), libraries=["anthropic"])
        return lambda: ledger.budget("b")

    return limit


def used(span: Any) -> dict[str, Any]:
    return {
        name.removeprefix("gen_ai.usage."): value
        for name, value in span.attributes.items()
        if name.startswith("gen_ai.usage.")
    }


ALL_USED = {
    "input_tokens": 1000,
    "output_tokens": 50,
    "cache_read.input_tokens": 200,
    "cache_write.input_tokens": 100,
    "reasoning.output_tokens": 20,
}


# --- spans


KEPT = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 20}
COMPACTED = {
    "input_tokens": 100,
    "output_tokens": 10,
    **KEPT,
    "iterations": [
        {"type": "compaction", "input_tokens": 5000, "output_tokens": 700, **KEPT},
        {"type": "message", "input_tokens": 100, "output_tokens": 10, **KEPT},
    ],
}


def compacting(request: dict[str, Any]) -> Raw:
    message = {"id": "m-1", "type": "message", "role": "assistant", "model": request["model"], "content": []}
    if not request.get("stream"):
        return Raw(json.dumps(message | {"stop_reason": "end_turn", "usage": COMPACTED}).encode(), "application/json")
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message | {"usage": {"input_tokens": 100, "output_tokens": 1, **KEPT}}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": COMPACTED},
        {"type": "message_stop"},
    ]
    return Raw("".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode())


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("stream", [False, True])
def test_what_it_took_to_sum_up_a_conversation_is_counted(stream, spans):
    with ModelServer(compacting) as model:
        client = anthropic.Anthropic(base_url=model.anthropic_url, api_key="offline", max_retries=0)
        answer = client.beta.messages.create(**asking(), stream=stream)
        if stream:
            list(answer)
    assert {"input_tokens": 5140, "output_tokens": 710, "cache_read.input_tokens": 40}.items() <= used(
        spans.one(SPAN)
    ).items()


@pytest.mark.usefixtures("instrumented")
def test_a_message_is_a_span_with_what_was_asked_and_used(client, model, spans):
    answer = client.messages.create(**asking("used"))
    assert type(answer) is Message
    span = spans.one(SPAN)
    assert span.kind is SpanKind.CLIENT
    host, _, port = model.anthropic_url.removeprefix("http://").partition(":")
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "claude-haiku-4-5",
        "gen_ai.request.max_tokens": 100,
        "gen_ai.response.model": answer.model,
        "gen_ai.response.id": answer.id,
        "gen_ai.response.finish_reasons": ("end_turn",),
        "server.address": host,
        "server.port": int(port),
    }
    assert {name: span.attributes[name] for name in expected} == expected
    assert used(span) == ALL_USED, "input includes what came from the cache and went into it"
    assert span.status.status_code is StatusCode.UNSET


STREAMS = {
    "create": lambda client: list(client.messages.create(**asking("used"), stream=True)),
    "helper": lambda client: helped(client.messages.stream(**asking("used"))),
    "beta create": lambda client: list(client.beta.messages.create(**asking("used"), stream=True)),
    "beta helper": lambda client: helped(client.beta.messages.stream(**asking("used"))),
    "raw": lambda client: list(client.messages.with_raw_response.create(**asking("used"), stream=True).parse()),
}


def helped(manager: Any) -> None:
    with manager as stream:
        assert "".join(stream.text_stream) == "one two three"
        assert stream.get_final_message().usage.output_tokens == 50


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("drain", STREAMS.values(), ids=STREAMS)
def test_a_stream_is_one_span_however_it_is_asked_for(drain, client, spans):
    drain(client)
    span = spans.one(SPAN)
    assert used(span) == ALL_USED
    assert span.attributes["gen_ai.request.stream"] is True
    assert span.attributes["gen_ai.response.finish_reasons"] == ("end_turn",)
    assert 0 < span.attributes["gen_ai.response.time_to_first_chunk"] < 60


@pytest.mark.usefixtures("instrumented")
def test_an_awaited_call_is_one_span_however_it_is_asked_for(awaited, spans):
    async def every(client: anthropic.AsyncAnthropic) -> None:
        assert type(await client.messages.create(**asking("used"))) is Message
        async for _ in await client.messages.create(**asking("used"), stream=True):
            pass
        for messages in (client.messages, client.beta.messages):
            async with messages.stream(**asking("used")) as stream:
                assert (await stream.get_final_message()).usage.output_tokens == 50
        raw = await client.messages.with_raw_response.create(**asking("used"))
        assert (await raw.parse()).usage.output_tokens == 50
        assert (await client.messages.parse(**asking("json"), output_format=Number)).parsed_output == Number(n=7)
        async with client.messages.with_streaming_response.create(**asking("used")) as response:
            assert (await response.parse()).usage.output_tokens == 50

    awaited(every)
    assert len(spans.all(SPAN)) == 7
    assert [used(span) for span in spans.all(SPAN) if span.attributes["gen_ai.usage.output_tokens"] > 9] == [
        ALL_USED
    ] * 6


@pytest.mark.usefixtures("instrumented")
def test_a_parsed_message_keeps_its_type_and_its_value(client, spans):
    answer = client.messages.parse(**asking("json"), output_format=Number)
    assert answer.parsed_output == Number(n=7)
    assert spans.one(SPAN).attributes["gen_ai.response.id"] == answer.id
    assert client.beta.messages.parse(**asking("json"), output_format=Number).parsed_output == Number(n=7)
    assert len(spans.all(SPAN)) == 2


@pytest.mark.usefixtures("instrumented")
def test_a_raw_response_is_measured_and_read_as_ever(client, spans):
    raw = client.messages.with_raw_response.create(**asking("used"))
    assert raw.headers["request-id"].startswith("req_")
    assert type(raw.parse()) is Message
    assert used(spans.one(SPAN)) == ALL_USED


@pytest.mark.usefixtures("instrumented")
def test_a_response_the_caller_reads_is_measured_once_it_is_read(client, spans):
    with client.messages.with_streaming_response.create(**asking("used")) as response:
        assert spans.all(SPAN) == []
        assert response.json()["usage"]["output_tokens"] == 50
    assert used(spans.one(SPAN))["input_tokens"] == 1000


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_the_model_asks_for_is_its_finish_reason(stream, client, spans):
    answer = client.messages.create(**asking("tool"), tools=[TOOL], stream=stream)
    if stream:
        list(answer)
    assert spans.one(SPAN).attributes["gen_ai.response.finish_reasons"] == ("tool_use",)


@pytest.mark.usefixtures("instrumented")
def test_the_span_is_a_child_of_the_workflow_around_it_and_says_nothing_of_what_was_said(client, spans):
    with workflow("w"):
        client.messages.create(**asking())
    assert spans.one(SPAN).parent.span_id == spans.one("invoke_agent").context.span_id
    assert "one two three" not in "".join(span.to_json() for span in spans.all())


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("option", [None, False, {"traces": {"enabled": True}}] if SPANS_ITSELF else [None], ids=str)
def test_the_clients_own_span_is_ours_or_none(option, model, spans):
    given = {} if option is None else {"open_telemetry": option}
    with anthropic.Anthropic(base_url=model.anthropic_url, api_key="offline", max_retries=0, **given) as client:
        client.messages.create(**asking("used"))
        with client.messages.stream(**asking("used")) as stream:
            stream.until_done()
    assert [span.name for span in spans.all()] == [SPAN, SPAN]
    assert [used(span) for span in spans.all()] == [ALL_USED, ALL_USED]


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("more", [{}, {"stream": True}])
def test_an_error_of_the_provider_passes_through_and_is_on_the_span(more, client, awaited, spans):
    with pytest.raises(anthropic.RateLimitError, match="slow down") as caught:
        client.messages.create(**asking("busy"), **more)
    assert caught.value.status_code == 429
    with pytest.raises(anthropic.RateLimitError, match="slow down"):
        awaited(lambda client: client.messages.create(**asking("busy"), **more))
    with pytest.raises(anthropic.RateLimitError, match="slow down"), client.messages.stream(**asking("busy")):
        pass
    for span in spans.all(SPAN):
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == "anthropic.RateLimitError"
        assert span.attributes["http.response.status_code"] == 429
    assert len(spans.all(SPAN)) == 3


# --- streams that do not end


def broken_off(stream: Any) -> None:
    for _ in stream:
        break


def closed(stream: Any) -> None:
    next(stream)
    stream.close()


def left(stream: Any) -> None:
    with stream:
        next(stream)


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("use", [broken_off, closed, left], ids=lambda use: use.__name__)
def test_a_stream_that_is_not_drained_ends_its_span_once(use, client, spans):
    use(client.messages.create(**asking(), stream=True))
    gc.collect()
    assert spans.one(SPAN).attributes["gen_ai.usage.input_tokens"] > 0


@pytest.mark.usefixtures("instrumented")
def test_a_helper_that_is_left_early_ends_its_span_at_once(client, spans):
    with client.messages.stream(**asking()) as stream:
        next(stream)
    assert spans.one(SPAN).attributes["gen_ai.usage.input_tokens"] > 0


# --- budgets


def test_beyond_a_budget_nothing_is_sent_however_it_is_asked_for(limited, client, awaited, model, spans):
    balance = limited(Tokens(50))

    async def entered(client: anthropic.AsyncAnthropic) -> None:
        async with client.messages.stream(**asking()):
            pass

    for refused in (
        lambda: client.messages.create(**asking()),
        lambda: client.messages.create(**asking(), stream=True),
        lambda: client.messages.stream(**asking()).__enter__(),
        lambda: client.beta.messages.stream(**asking()).__enter__(),
        lambda: client.messages.parse(**asking("json"), output_format=Number),
        lambda: client.beta.messages.create(**asking()),
        lambda: awaited(lambda client: client.messages.create(**asking())),
        lambda: awaited(entered),
    ):
        with pytest.raises(errors.BudgetExceeded):
            refused()
        assert spans.all(SPAN)[-1].attributes["spanledger.verdict"] == "budget_exceeded"
    gc.collect()
    assert model.requests == []
    assert (balance().spent, balance().held) == (Tokens(0), Tokens(0))


def test_a_request_that_is_prepared_and_never_made_holds_nothing(limited, client, model, spans):
    balance = limited(Tokens(1000))
    client.messages.create(**asking())
    client.messages.stream(**asking())
    assert (balance().held, len(model.requests), len(spans.all())) == (Tokens(0), 1, 1)


MAKE = {
    "whole": lambda client: client.messages.create(**asking("used")),
    "streamed": lambda client: list(client.messages.create(**asking("used"), stream=True)),
    "helper": lambda client: helped(client.messages.stream(**asking("used"))),
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_budget_of_money_is_settled_at_the_prices_of_fresh_cached_and_written_tokens(make, limited, client):
    balance = limited(Money("1", "USD"))
    make(client)
    # Of claude-haiku-4-5, per million tokens: read, from the cache, into it, written.
    micros = 700 * 1 + 200 * Decimal("0.1") + 100 * Decimal("1.25") + 50 * 5
    assert (balance().spent, balance().held) == (Money(micros.scaleb(-6), "USD"), Money(0, "USD"))


def test_a_stream_that_breaks_off_costs_its_input_and_what_was_seen(limited, client):
    with pytest.raises(Exception, match=r".") as plain:
        list(client.messages.create(**asking("hung_up"), stream=True))
    balance = limited(Tokens(1000))
    stream = client.messages.create(**asking("hung_up"), stream=True)
    with pytest.raises(type(plain.value), match=re.escape(str(plain.value))):
        list(stream)
    assert (balance().spent, balance().held) == (Tokens(30 + len("twelve bytes")), Tokens(0))


def test_an_abandoned_stream_costs_its_input_and_what_was_seen(limited, client, spans):
    balance = limited(Tokens(1000))
    broken_off(client.messages.create(**asking(), stream=True))
    gc.collect()
    read = until_nothing_is_held(balance).spent.steps - 1
    assert spans.one(SPAN).attributes["gen_ai.usage.input_tokens"] == read


def test_a_stream_of_garbage_is_the_callers_error_and_holds_nothing(limited, client):
    balance = limited(Tokens(1000))
    stream = client.messages.create(**asking("garbage"), stream=True)
    with pytest.raises(ValueError, match="Expecting property name"):
        list(stream)
    assert balance().held == Tokens(0)


def test_tools_and_images_are_reserved_for(limited, client, model):
    limited(Tokens(1500))
    client.messages.create(**asking())
    with pytest.raises(errors.BudgetExceeded):
        client.messages.create(**asking(), tools=[TOOL], system="x" * 400)
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBOR"}}
    content = [image, {"type": "text", "text": "say"}]
    with pytest.raises(errors.BudgetExceeded) as caught:
        client.messages.create(**asking() | {"messages": [{"role": "user", "content": content}]})
    assert caught.value.requested.steps > 50_000
    assert len(model.requests) == 1


# --- other doors to the same functions


def test_vertex_goes_through_the_same_functions(instrumented, model, spans):
    with anthropic.AnthropicVertex(
        region="europe-west1", project_id="p", access_token="t", base_url=f"{model.anthropic_url}/v1", max_retries=0
    ) as client:
        client.messages.create(**asking("used"))
        list(client.messages.create(**asking("used"), stream=True))
        client.beta.messages.create(**asking("used"))
    assert [used(span) for span in spans.all(SPAN)] == [ALL_USED] * 3
    assert {span.attributes["gen_ai.provider.name"] for span in spans.all(SPAN)} == {"gcp.vertex_ai"}


def test_bedrock_goes_through_the_same_functions(instrumented, model, spans):
    given = {"aws_region": "eu-central-1", "api_key": "k", "base_url": model.anthropic_url, "max_retries": 0}

    async def awaiting() -> None:
        async with anthropic.AsyncAnthropicBedrock(**given) as client:
            await client.messages.create(**asking("used"))

    with anthropic.AnthropicBedrock(**given) as client:
        client.messages.create(**asking("used"))
        client.beta.messages.create(**asking("used"))
    asyncio.run(awaiting())
    assert [used(span) for span in spans.all(SPAN)] == [ALL_USED] * 3
    assert {span.attributes["gen_ai.provider.name"] for span in spans.all(SPAN)} == {"aws.bedrock"}


def test_foundry_goes_through_the_same_functions(instrumented, model, spans):
    with anthropic.AnthropicFoundry(base_url=model.anthropic_url, api_key="k", max_retries=0) as client:
        client.messages.create(**asking("used"))
        list(client.messages.create(**asking("used"), stream=True))
    assert [used(span) for span in spans.all(SPAN)] == [ALL_USED] * 2


def test_uninstrument_puts_back_the_very_functions():
    from anthropic.lib.bedrock import _beta_messages as bedrock
    from anthropic.lib.streaming import _messages as helpers
    from anthropic.resources.messages import messages

    def functions() -> list[object]:
        places = [(cls, name) for cls in (messages.Messages, messages.AsyncMessages, bedrock.Messages)
                  for name in ("create", "stream", "parse")]  # fmt: skip
        places.append((helpers.MessageStreamManager, "__enter__"))
        return [vars(cls)[name] for cls, name in places]

    before = functions()
    spanledger.instrument(Config(dsn="host=/nowhere"), libraries=["anthropic"])
    spanledger.instrument(Config(dsn="host=/nowhere"), libraries=["anthropic"])
    assert not any(map(operator.is_, functions(), before))
    spanledger.uninstrument()
    assert all(map(operator.is_, functions(), before))
