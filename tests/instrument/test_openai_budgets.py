"""Budgets for model calls: refused before anything is sent, settled with what was really used."""

from __future__ import annotations

import gc
from collections.abc import Callable

import openai
import pydantic
import pytest
from openai_world import ASK, SPAN
from opentelemetry.trace import StatusCode

from spanledger import Balance, Budget, Calls, Ledger, Tokens, errors
from spanledger.core.money import Amount


class Number(pydantic.BaseModel):
    n: int


@pytest.fixture
def limited(instrument_client: Callable[..., None], dsn: str, ledger: Ledger) -> Callable[..., Callable[[], Balance]]:
    """Instrument the client with a budget for chats; gives back how to ask how it stands."""

    def limit(amount: Amount) -> Callable[[], Balance]:
        instrument_client(dsn=dsn, budgets=[Budget("b", amount, match="gpt-*", operations=("chat",))])
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
    next(client.chat.completions.create(**ASK, stream=True))
    gc.collect()
    assert (balance().spent, balance().held) == (Calls(1), Calls(0))


@pytest.mark.usefixtures("instrumented_client")
def test_a_call_that_no_budget_covers_does_not_ask_the_ledger(client, spans):
    client.chat.completions.create(**ASK)
    assert "spanledger.verdict" not in spans.one(SPAN).attributes


def test_a_model_that_cannot_be_reached_holds_nothing(limited, client):
    balance = limited(Calls(3))
    unreachable = client.with_options(base_url="http://127.0.0.1:9/v1", max_retries=0)

    with pytest.raises(openai.APIConnectionError):
        unreachable.chat.completions.create(**ASK)

    assert (balance().spent, balance().held) == (Calls(0), Calls(0))
