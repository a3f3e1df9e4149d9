"""A model call made in the middle of another, by the same client: a call of its own, unless it asks the same."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from anthropic_world import asking, script
from openai_world import LIMITED
from opentelemetry import trace

import spanledger
from spanledger import Budget, Calls, Config, Ledger, errors
from spanledger.testing import ModelServer

pytestmark = pytest.mark.filterwarnings("ignore:.*model.*deprecated:DeprecationWarning")


@pytest.fixture
def claude() -> Iterator[ModelServer]:
    with ModelServer(script) as model:
        yield model


@pytest.fixture
def limited(dsn: str) -> Callable[[int], None]:
    def limit(calls: int) -> None:
        budgets = [Budget("b", Calls(calls), operations=("chat",))]
        spanledger.instrument(Config(dsn=dsn, budgets=budgets), libraries=["anthropic", "openai"])

    return limit


def moderated(model: ModelServer, ask: dict[str, Any]) -> anthropic.Anthropic:
    """A client that has each request looked at by a model first."""

    def look(request: Any, call_next: Callable[[Any], Any]) -> Any:
        # Under `ask` nobody looks again.
        if request.options.json_data["messages"] != ask["messages"]:
            client.messages.create(**ask)
        return call_next(request)

    client = anthropic.Anthropic(base_url=model.anthropic_url, api_key="offline", max_retries=0, middleware=[look])
    return client


def moderated_awaiting(model: ModelServer, ask: dict[str, Any]) -> anthropic.AsyncAnthropic:
    async def look(request: Any, call_next: Callable[[Any], Any]) -> Any:
        if request.options.json_data["messages"] != ask["messages"]:
            await client.messages.create(**ask)
        return await call_next(request)

    client = anthropic.AsyncAnthropic(base_url=model.anthropic_url, api_key="offline", max_retries=0, middleware=[look])
    return client


def usage(span: Any) -> tuple[str, int]:
    return span.name, span.attributes["gen_ai.usage.output_tokens"]


has_middleware = pytest.mark.skipif(not hasattr(anthropic.Anthropic, "with_middleware"), reason="has no middleware")


@has_middleware
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_middleware_asks_is_a_call_of_its_own(stream, claude, limited, spans, ledger: Ledger):
    limited(10)
    with moderated(claude, asking("used")) as client:
        asked = client.messages.create(**asking("say"), stream=stream)
        said = list(asked) if stream else asked
    assert said
    inner, outer = spans.all()
    assert usage(inner)[1] == 50
    assert usage(outer)[1] < 50
    assert inner.parent.span_id == outer.context.span_id
    assert (len(claude.requests), ledger.budget("b").spent, ledger.budget("b").held) == (2, Calls(2), Calls(0))


@has_middleware
def test_an_awaited_one_too(claude, limited, spans, ledger: Ledger):
    limited(10)

    async def main() -> None:
        async with moderated_awaiting(claude, asking("used")) as client:
            await client.messages.create(**asking("say"))

    asyncio.run(main())
    assert len(spans.all()) == 2
    assert (len(claude.requests), ledger.budget("b").spent) == (2, Calls(2))


@has_middleware
def test_beyond_a_budget_a_middleware_sends_nothing(claude, limited, ledger: Ledger):
    limited(1)
    with moderated(claude, asking("used")) as client, pytest.raises(errors.BudgetExceeded):
        client.messages.create(**asking("say"))
    assert claude.requests == []
    assert ledger.budget("b").held == Calls(0)


@pytest.mark.parametrize(
    ("more", "calls"),
    [
        ({}, 1),
        ({"model": "gpt-5-mini"}, 2),
        ({"messages": [{"role": "user", "content": "may I?"}]}, 2),
        ({"temperature": 0.5}, 1),
    ],
    ids=["the same", "another model", "something else", "the same otherwise"],
)
def test_what_is_sent_in_the_middle_of_a_call_is_part_of_it_if_it_asks_the_same(
    more, calls, model, limited, spans, ledger: Ledger
):
    limited(10)
    left = [{**LIMITED, **more}]

    def hook(_request: httpx2.Request) -> None:
        if left:
            client.chat.completions.create(**left.pop())

    transport = httpx2.Client(event_hooks={"request": [hook]})
    with openai.OpenAI(base_url=model.url, api_key="offline", max_retries=0, http_client=transport) as client:
        client.chat.completions.create(**LIMITED)
    assert len(spans.all()) == calls
    assert len(model.requests) == 2
    assert ledger.budget("b").spent == Calls(calls)


def test_one_inside_a_span_of_the_programs_own_is_a_call_of_its_own(model, limited, spans):
    limited(10)
    left = [{**LIMITED, "model": "gpt-5-mini"}]

    def hook(_request: httpx2.Request) -> None:
        with trace.get_tracer("mine").start_as_current_span("moderation"):
            if left:
                client.chat.completions.create(**left.pop())

    transport = httpx2.Client(event_hooks={"request": [hook]})
    with openai.OpenAI(base_url=model.url, api_key="offline", max_retries=0, http_client=transport) as client:
        client.chat.completions.create(**LIMITED)
    names = [span.name for span in spans.all()]
    assert sorted(names) == ["chat gpt-5", "chat gpt-5-mini", "moderation", "moderation"]


def test_what_goes_on_when_the_call_that_began_it_is_over_is_no_part_of_it(model, limited, spans, ledger: Ledger):
    limited(10)

    async def main() -> None:
        over, begun = asyncio.Event(), []

        async def later() -> None:
            await over.wait()
            await client.chat.completions.create(**LIMITED)

        async def hook(_request: httpx2.Request) -> None:
            if not begun:
                begun.append(asyncio.create_task(later()))

        transport = httpx2.AsyncClient(event_hooks={"request": [hook]})
        client = openai.AsyncOpenAI(base_url=model.url, api_key="offline", max_retries=0, http_client=transport)
        async with client:
            await client.chat.completions.create(**LIMITED)
            over.set()
            await begun[0]

    asyncio.run(main())
    assert [span.name for span in spans.all()] == ["chat gpt-5", "chat gpt-5"]
    assert ledger.budget("b").spent == Calls(2)


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_asked_is_not_kept_by_what_the_call_leaves_behind(stream, model, limited):
    class Messages(list[Any]):
        """A list that can be watched."""

    limited(10)
    left: list[contextvars.Context] = []
    transport = httpx2.Client(event_hooks={"request": [lambda _request: left.append(contextvars.copy_context())]})
    messages = Messages(LIMITED["messages"])
    kept = weakref.ref(messages)
    with openai.OpenAI(base_url=model.url, api_key="offline", max_retries=0, http_client=transport) as client:
        asked = client.chat.completions.create(**{**LIMITED, "messages": messages}, stream=stream)
        if stream:
            list(asked)
    del messages, asked
    gc.collect()
    assert len(left) == 1
    assert kept() is None
