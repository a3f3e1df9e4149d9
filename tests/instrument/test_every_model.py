"""What holds for the model calls of every library; its author writes `asks` in a `Case`, and no test."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import Callable
from typing import Any

import library_case
import pytest
from library_case import Asking, Case
from opentelemetry.trace import StatusCode
from settled import until_nothing_is_held

import spanledger
from spanledger import Balance, Budget, Calls, Config, Ledger, Price, Tokens, errors
from spanledger.testing import Fail, Say

SAID = "the refund of ten euros has been sent to the customer"
KNOWN = Price("*", input=spanledger.Money(1, "USD"), output=spanledger.Money(1, "USD"), output_tokens_max=1_000)
PLENTY = 1_000_000


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every way in which a library asks a model; of some tests, those whose answers come in chunks."""
    if "asking" not in metafunc.fixturenames:
        return
    streams = "streamed" in metafunc.fixturenames

    def asks(name: str) -> dict[str, Asking]:
        return {title: found for title, found in library_case.asks(name).items() if found[1].streamed or not streams}

    metafunc.parametrize("asking", list(library_case.parameters(metafunc.config.getoption("library"), asks)))


@pytest.fixture
def streamed(asking: Asking) -> bool:
    """The test is about answers that come in chunks."""
    return asking[1].streamed


@pytest.fixture
def case(asking: Any) -> Case:
    return asking[0]


@pytest.fixture
def ask(asking: Any) -> Callable[..., Any]:
    """Ask a server so, and read no more of the answer than so many chunks."""
    return lambda server, most=None: read(asking[1].run(server), most)


@pytest.fixture
def budget(case: Case, asking: Any, dsn: str, ledger: Ledger) -> Callable[..., Callable[[], Balance]]:
    """Instrument the library with a budget of all its model calls; gives back how to ask how it stands."""

    def instrument(limit: Any = None) -> Callable[[], Balance]:
        config = Config(dsn=dsn, budgets=[Budget("b", limit or Tokens(PLENTY))], prices=[KNOWN])
        spanledger.instrument(config, libraries=[case.library, *asking[1].libraries])
        return lambda: ledger.budget("b")

    return instrument


def read(answer: Any, most: int | None) -> int:
    """Read an answer, which may be a stream of any kind; return how many chunks it had, 0 if it is none."""

    def whole(chunks: Any) -> int:
        count = 0
        for count, _ in enumerate(chunks, 1):
            if count == most:
                break
        if count == most and hasattr(chunks, "close"):
            chunks.close()
        return count

    async def awaiting() -> int:
        found = await answer if inspect.isawaitable(answer) else answer
        if not hasattr(found, "__anext__"):
            return 0
        count = 0
        async for _ in found:
            count += 1
            if count == most:
                await found.aclose()
                break
        return count

    if inspect.isawaitable(answer) or hasattr(answer, "__anext__"):
        return asyncio.run(awaiting())
    return whole(answer) if hasattr(answer, "__next__") else 0


def test_a_model_call_is_one_span_that_says_who_was_asked_and_what_was_used(case, ask, budget, spans):
    budget()
    with case.server(lambda _request: Say(SAID)) as server:
        ask(server)
    (span,) = spans.all()
    said = span.attributes
    assert said["gen_ai.operation.name"] in ("chat", "generate_content", "text_completion")
    assert said["gen_ai.request.model"]
    assert said["gen_ai.provider.name"]
    assert said["gen_ai.response.finish_reasons"]
    assert said["gen_ai.usage.input_tokens"] > 0
    assert said["gen_ai.usage.output_tokens"] > 0


def test_what_was_used_is_what_is_booked(case, ask, budget, spans):
    balance = budget()
    with case.server(lambda _request: Say(SAID)) as server:
        ask(server)
    (span,) = spans.all()
    used = span.attributes["gen_ai.usage.input_tokens"] + span.attributes["gen_ai.usage.output_tokens"]
    assert (balance().spent, balance().held) == (Tokens(used), Tokens(0))


@pytest.mark.parametrize("limit", [Tokens(1), Calls(0)])
def test_beyond_a_budget_nothing_is_sent(case, ask, budget, limit, spans):
    budget(limit)
    with case.server(lambda _request: Say(SAID)) as server:
        with pytest.raises(errors.BudgetExceeded):
            ask(server)
        assert server.requests == []
    (span,) = spans.all()
    assert span.status.status_code is StatusCode.ERROR


def test_a_request_that_the_provider_refuses_costs_nothing_and_is_an_error_on_the_span(case, ask, budget, spans):
    balance = budget()
    with case.server(lambda _request: Fail(400, "no such model")) as server, pytest.raises(Exception, match="no such"):
        ask(server)
    assert (balance().spent, balance().held) == (Tokens(0), Tokens(0))
    (span,) = spans.all()
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.usefixtures("streamed")
def test_a_stream_that_is_left_early_is_settled_and_its_span_ends(case, ask, budget, spans):
    balance = budget()
    with case.server(lambda _request: Say(SAID * 20)) as server:
        assert ask(server, most=1) == 1
        gc.collect()
        assert 0 < until_nothing_is_held(balance).spent.steps < PLENTY
    assert len(spans.all()) == 1


@pytest.mark.usefixtures("streamed")
def test_a_stream_shows_no_more_and_no_less_than_without_us(case, ask, budget, spans):
    with case.server(lambda _request: Say(SAID)) as server:
        plain = ask(server)
        budget()
        assert ask(server) == plain > 1
    assert "gen_ai.response.time_to_first_chunk" in spans.all()[-1].attributes
