"""A model call made in the middle of another, as a middleware or a hook makes it: a call of its own."""

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
from opentelemetry import context as otel_context
from opentelemetry import trace

import spanledger
from spanledger import Budget, Call, Calls, Config, Ledger, errors
from spanledger.instrument.library import Library, Wrap
from spanledger.telemetry import model_spans
from spanledger.testing import ModelServer


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


def written(span: Any) -> int:
    return span.attributes["gen_ai.usage.output_tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_middleware_asks_is_a_call_of_its_own(stream, claude, limited, spans, ledger: Ledger):
    limited(10)
    with moderated(claude, asking("used")) as client:
        asked = client.messages.create(**asking("say"), stream=stream)
        said = list(asked) if stream else asked
    assert said
    inner, outer = spans.all()
    assert written(inner) == 50
    assert written(outer) < 50
    assert inner.parent.span_id == outer.context.span_id
    assert (len(claude.requests), ledger.budget("b").spent, ledger.budget("b").held) == (2, Calls(2), Calls(0))


def test_an_awaited_one_too(claude, limited, spans, ledger: Ledger):
    limited(10)

    async def main() -> None:
        async with moderated_awaiting(claude, asking("used")) as client:
            await client.messages.create(**asking("say"))

    asyncio.run(main())
    assert len(spans.all()) == 2
    assert (len(claude.requests), ledger.budget("b").spent) == (2, Calls(2))


def test_beyond_a_budget_a_middleware_sends_nothing_and_the_call_around_it_costs_nothing(
    claude, limited, spans, ledger: Ledger
):
    limited(1)
    with moderated(claude, asking("used")) as client, pytest.raises(errors.BudgetExceeded):
        client.messages.create(**asking("say"))
    assert claude.requests == []
    assert (ledger.budget("b").spent, ledger.budget("b").held) == (Calls(0), Calls(0))
    assert [span.attributes["spanledger.verdict"] for span in spans.all()] == ["budget_exceeded", "run"]


def test_a_call_that_no_budget_covers_was_not_refused_where_what_its_middleware_asked_was(claude, dsn: str, spans):
    none = Budget("b", Calls(0), match="claude-haiku-4-5")
    spanledger.instrument(Config(dsn=dsn, budgets=[none]), libraries=["anthropic"])
    with moderated(claude, asking("used")) as client, pytest.raises(errors.BudgetExceeded):
        client.messages.create(**asking("say", model="claude-of-tomorrow"))
    inner, outer = spans.all()
    assert inner.attributes["spanledger.verdict"] == "budget_exceeded"
    assert "spanledger.verdict" not in outer.attributes
    assert outer.attributes["error.type"] == "spanledger.errors.BudgetExceeded"


def test_what_a_middleware_asks_of_another_provider_is_a_call_of_its_own(claude, model, limited, spans, ledger: Ledger):
    limited(10)
    with openai.OpenAI(base_url=model.url, api_key="offline", max_retries=0) as other:

        def look(request: Any, call_next: Callable[[Any], Any]) -> Any:
            other.chat.completions.create(**LIMITED)
            return call_next(request)

        url = claude.anthropic_url
        with anthropic.Anthropic(base_url=url, api_key="offline", max_retries=0, middleware=[look]) as client:
            client.messages.create(**asking("say"))
    assert [span.name for span in spans.all()] == ["chat gpt-5", "chat claude-haiku-4-5"]
    assert ledger.budget("b").spent == Calls(2)


def sending(model: ModelServer, inside: Callable[[openai.OpenAI], object]) -> openai.OpenAI:
    """A client that asks something more when it sends its first request."""
    left = [inside]

    def hook(_request: httpx2.Request) -> None:
        if left:
            left.pop()(client)

    transport = httpx2.Client(event_hooks={"request": [hook]})
    client = openai.OpenAI(base_url=model.url, api_key="offline", max_retries=0, http_client=transport)
    return client


def chat(**more: Any) -> Callable[[openai.OpenAI], object]:
    return lambda client: client.chat.completions.create(**{**LIMITED, **more})


def respond(**more: Any) -> Callable[[openai.OpenAI], object]:
    return lambda client: client.responses.create(**{"model": "gpt-5", "input": "hi", "max_output_tokens": 9, **more})


@pytest.mark.parametrize(
    ("outer", "inner", "calls"),
    [
        (chat(), chat(), 1),
        (chat(), chat(messages=[{"role": "user", "content": "may I?"}]), 2),
        (chat(), chat(temperature=0.5), 2),
        (chat(), chat(extra_body={"model": "gpt-5-mini"}), 2),
        (chat(stream=True, stream_options={"include_usage": True}), chat(), 2),
        (respond(), respond(instructions="Is that allowed?"), 2),
        (respond(), lambda client: client.embeddings.create(model="gpt-5", input="hi"), 2),
    ],
    ids=["the very same", "something else", "otherwise", "by hand", "no stream", "instructions", "an embedding"],
)
def test_what_is_sent_in_the_midst_of_a_call_is_another_unless_it_is_the_very_same(
    outer, inner, calls, model, limited, spans
):
    limited(10)
    with sending(model, inner) as client:
        asked = outer(client)
        if isinstance(asked, openai.Stream):
            list(asked)
    assert len(spans.all()) == calls
    assert len(model.requests) == 2


def test_what_another_library_s_function_asks_by_way_of_a_client_is_the_call_it_was_asked_for(
    dsn: str, model, spans, ledger: Ledger
):
    around = Wrap(f"{__name__}:Router.ask", lambda _router, _args, _kwargs: Call("best", "chat"), "chat")
    budgets = [Budget("b", Calls(10), operations=("chat",))]
    spanledger.instrument(Config(dsn=dsn, budgets=budgets), libraries=["openai", Library("router", "", (around,))])
    with openai.OpenAI(base_url=model.url, api_key="offline", max_retries=0) as client:
        Router(client).ask("hi")
    assert [span.name for span in spans.all()] == ["chat best"]
    assert ledger.budget("b").spent == Calls(1)


class Router:
    """What another library makes of a client."""

    def __init__(self, client: openai.OpenAI) -> None:
        self.client = client

    def ask(self, prompt: str) -> Any:
        return self.client.chat.completions.create(**{**LIMITED, "messages": [{"role": "user", "content": prompt}]})


def test_one_inside_a_span_of_the_programs_own_is_a_call_of_its_own(model, limited, spans):
    limited(10)

    def moderate(client: openai.OpenAI) -> None:
        with trace.get_tracer("mine").start_as_current_span("moderation"):
            chat(model="gpt-5-mini")(client)

    with sending(model, moderate) as client:
        client.chat.completions.create(**LIMITED)
    assert [span.name for span in spans.all()] == ["chat gpt-5-mini", "moderation", "chat gpt-5"]


@pytest.mark.parametrize("while_it_settles", [False, True])
def test_what_goes_on_when_the_call_that_began_it_is_over_is_no_part_of_it(
    while_it_settles, model, limited, spans, ledger: Ledger
):
    limited(10)

    async def main() -> None:
        over, begun = asyncio.Event(), []

        async def later() -> None:
            if while_it_settles:
                around = otel_context.get_current()[model_spans.INSIDE]
                while not around.is_over:  # noqa: ASYNC110 - looked at in every turn of the loop
                    await asyncio.sleep(0)
            else:
                await over.wait()
            await client.chat.completions.create(**LIMITED | {"model": "gpt-5-mini"})

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
    said = {(span.name, span.attributes["gen_ai.request.model"]) for span in spans.all()}
    assert said == {("chat gpt-5", "gpt-5"), ("chat gpt-5-mini", "gpt-5-mini")}
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
