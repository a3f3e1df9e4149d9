"""Anthropic's clients for Bedrock, whose streams come in Amazon's framing: traced and settled like all others."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest
from anthropic_world import SPAN, asking, begun, script
from opentelemetry.trace import StatusCode
from settled import until_nothing_is_held

import spanledger
from spanledger import Balance, Budget, Config, Ledger, Tokens, errors
from spanledger.testing import ModelServer, Raw
from spanledger.testing._event_stream import CONTENT_TYPE, chunk, failure

# Signs as AWS wants it, with keys of nobody.
SIGNED = {"aws_region": "eu-central-1", "aws_access_key": "AKIA0", "aws_secret_key": "s", "max_retries": 0}


def framed(request: dict) -> Any:
    """What is said elsewhere, and a stream that Bedrock ends with an exception."""
    if request["messages"][-1]["content"] == "throttled":
        return Raw([*map(chunk, begun()), failure("throttlingException", "slow down")], CONTENT_TYPE)
    return script(request)


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer(framed) as model:
        yield model


@pytest.fixture
def client(model: ModelServer) -> Iterator[anthropic.AnthropicBedrock]:
    with anthropic.AnthropicBedrock(**SIGNED, base_url=model.anthropic_url) as client:
        yield client


@pytest.fixture
def awaited(model: ModelServer) -> Callable[..., Any]:
    """Run a coroutine function with an asynchronous client in a loop of its own."""

    def run(function: Callable[..., Any]) -> Any:
        async def main() -> Any:
            async with anthropic.AsyncAnthropicBedrock(**SIGNED, base_url=model.anthropic_url) as client:
                return await function(client)

        return asyncio.run(main())

    return run


@pytest.fixture
def limited(dsn: str, ledger: Ledger) -> Callable[[], Balance]:
    """Instrument with a budget of 1000 tokens; asks how it stands."""
    spanledger.instrument(Config(dsn=dsn, budgets=[Budget("b", Tokens(1000))]), libraries=["anthropic"])
    return lambda: ledger.budget("b")


async def created(client: anthropic.AsyncAnthropicBedrock) -> None:
    async for _event in await client.messages.create(**asking("used"), stream=True):
        pass


async def helped(client: anthropic.AsyncAnthropicBedrock) -> None:
    async with client.messages.stream(**asking("used")) as stream:
        assert await stream.get_final_text() == "one two three"


def helped_blocking(client: anthropic.AnthropicBedrock) -> None:
    with client.messages.stream(**asking("used")) as stream:
        assert stream.get_final_text() == "one two three"


BLOCKING = {
    "create": lambda client: list(client.messages.create(**asking("used"), stream=True)),
    "helper": helped_blocking,
    "beta create": lambda client: list(client.beta.messages.create(**asking("used"), stream=True)),
    "raw": lambda client: list(client.messages.with_raw_response.create(**asking("used"), stream=True).parse()),
}
AWAITING = {"create": created, "helper": helped}


def is_told_whole(span: Any) -> None:
    told = {
        "gen_ai.provider.name": "aws.bedrock",
        "gen_ai.request.stream": True,
        "gen_ai.response.finish_reasons": ("end_turn",),
        "gen_ai.usage.input_tokens": 1000,
        "gen_ai.usage.output_tokens": 50,
        "gen_ai.usage.cache_read.input_tokens": 200,
    }
    assert {name: span.attributes.get(name) for name in told} == told
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("drain", BLOCKING.values(), ids=BLOCKING)
def test_a_stream_is_one_span_and_costs_what_was_reported(drain, limited, client, model, spans):
    drain(client)
    is_told_whole(spans.one(SPAN))
    assert (limited().spent, limited().held, len(model.requests)) == (Tokens(1050), Tokens(0), 1)


@pytest.mark.parametrize("drain", AWAITING.values(), ids=AWAITING)
def test_an_awaited_stream_is_one_span_and_costs_what_was_reported(drain, limited, awaited, model, spans):
    awaited(drain)
    is_told_whole(spans.one(SPAN))
    assert (limited().spent, limited().held, len(model.requests)) == (Tokens(1050), Tokens(0), 1)


def broken_off(client: anthropic.AnthropicBedrock) -> None:
    for _event in client.messages.create(**asking(), stream=True):
        break


def left(client: anthropic.AnthropicBedrock) -> None:
    with client.messages.stream(**asking()) as stream:
        next(stream)


async def broken_off_awaiting(client: anthropic.AsyncAnthropicBedrock) -> None:
    async for _event in await client.messages.create(**asking(), stream=True):
        break


async def left_awaiting(client: anthropic.AsyncAnthropicBedrock) -> None:
    async with client.messages.stream(**asking()) as stream:
        await anext(stream)


@pytest.mark.parametrize("use", [broken_off, left, broken_off_awaiting, left_awaiting], ids=lambda use: use.__name__)
def test_a_stream_that_is_not_drained_ends_its_span_and_costs_its_input(use, limited, client, awaited, spans):
    awaited(use) if inspect.iscoroutinefunction(use) else use(client)
    gc.collect()
    spent = until_nothing_is_held(limited).spent.steps
    read = spans.one(SPAN).attributes["gen_ai.usage.input_tokens"]
    assert spent - read in (0, 1), "and the one token that its first event reports of the answer"


async def throttled_awaiting(client: anthropic.AsyncAnthropicBedrock) -> None:
    async for _event in await client.messages.create(**asking("throttled"), stream=True):
        pass


def throttled(client: anthropic.AnthropicBedrock) -> None:
    list(client.messages.create(**asking("throttled"), stream=True))


@pytest.mark.parametrize("use", [throttled, throttled_awaiting], ids=lambda use: use.__name__)
def test_a_stream_that_ends_with_an_exception_is_the_callers_error_and_costs_what_was_seen(
    use, limited, client, awaited, spans
):
    # The oldest release that we know raises a plain error.
    with pytest.raises((anthropic.APIStatusError, ValueError), match="slow down") as caught:
        awaited(use) if inspect.iscoroutinefunction(use) else use(client)
    assert (limited().spent, limited().held) == (Tokens(30 + len("twelve bytes")), Tokens(0))
    assert spans.one(SPAN).attributes["error.type"].endswith(type(caught.value).__name__)


def test_beyond_a_budget_no_stream_is_asked_for(limited, client, awaited, model, spans):
    more = asking("say" * 1000)
    with pytest.raises(errors.BudgetExceeded):
        client.messages.create(**more, stream=True)
    with pytest.raises(errors.BudgetExceeded):
        awaited(lambda client: client.messages.create(**more, stream=True))
    assert (model.requests, len(spans.all(SPAN))) == ([], 2)
