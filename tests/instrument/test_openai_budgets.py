"""Budgets for model calls: refused before anything is sent, settled with what was really used, nothing left held."""

from __future__ import annotations

import asyncio
import gc
import json
import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import openai
import pydantic
import pytest
from openai_world import ASK, LIMITED, SPAN
from opentelemetry.trace import StatusCode
from settled import until_nothing_is_held

from spanledger import Balance, Budget, Calls, Ledger, Money, Price, Rate, Rule, Tokens, errors
from spanledger.core.money import Amount
from spanledger.testing import ModelServer, Raw

# Of gpt-5, per million tokens: read, from the cache, written.
READ, CACHED, WRITTEN = Decimal("1.25"), Decimal("0.125"), Decimal(10)


class Number(pydantic.BaseModel):
    n: int


@pytest.fixture
def limited(instrument_client: Callable[..., None], dsn: str, ledger: Ledger) -> Callable[..., Callable[[], Balance]]:
    """Instrument the client with a budget for chats; gives back how to ask how it stands."""

    def limit(amount: Amount, match: str = "*", **fields: Any) -> Callable[[], Balance]:
        budget = Budget("b", amount, match=match, operations=("chat",))
        instrument_client(dsn=dsn, ledger_timeout_s=10.0, budgets=[budget], **fields)
        return lambda: ledger.budget("b")

    return limit


def chat(client: openai.OpenAI, user: str = "say", **more: Any) -> Any:
    return client.chat.completions.create(**{**LIMITED, "user": user, **more})


def chunks(client: openai.OpenAI, user: str = "say", **more: Any) -> Any:
    return chat(client, user, stream=True, **more)


def reserved_tokens(span: Any) -> int:
    (amount,) = (amount for amount in span.attributes["spanledger.reserved"] if amount.endswith(" tokens"))
    return int(amount.removesuffix(" tokens"))


# --- before


def test_beyond_a_budget_of_calls_nothing_is_sent(limited, client, awaited, model, spans):
    balance = limited(Calls(2))
    chat(client)
    list(chunks(client))
    for refused in (
        lambda: chat(client),
        lambda: chunks(client),
        lambda: client.chat.completions.parse(**ASK, response_format=Number),
        lambda: client.chat.completions.with_raw_response.create(**ASK),
        lambda: client.responses.create(model="gpt-5", input="hi"),
        lambda: awaited(lambda client: client.chat.completions.create(**ASK)),
    ):
        with pytest.raises(errors.BudgetExceeded) as caught:
            refused()
        assert (caught.value.budget, caught.value.remaining) == ("b", Calls(0))
        assert not hasattr(caught.value, "__notes__"), "a maximum of tokens would not help"
        span = spans.all(SPAN)[-1]
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["spanledger.verdict"] == "budget_exceeded"
    assert len(model.requests) == 2
    assert balance().spent == Calls(2)


def test_a_call_reserves_what_it_can_use_at_most(limited, client, spans):
    limited(Tokens(1000))
    answer = chat(client)
    tokens = reserved_tokens(spans.one(SPAN))
    assert answer.usage.prompt_tokens + 100 <= tokens <= 1000


@pytest.mark.parametrize("text", ["a" * 300, "ä" * 300, "🙂" * 300, "\x00\ud800" * 300, "}" * 300])
def test_a_text_is_never_reserved_too_low(text, limited, client, model):
    """A tokenizer that knows nothing but bytes makes a token of each."""
    limited(Tokens(len(text.encode("utf-8", "surrogatepass")) + 100))
    with pytest.raises(errors.BudgetExceeded):
        chat(client, messages=[{"role": "user", "content": text}])
    assert model.requests == []


def test_several_answers_reserve_the_maximum_several_times(limited, client, model):
    limited(Tokens(700))
    chat(client)
    with pytest.raises(errors.BudgetExceeded):
        chat(client, n=6)
    assert len(model.requests) == 1


def test_what_a_caller_adds_to_the_body_counts(limited, client, model):
    limited(Tokens(500))
    with pytest.raises(errors.BudgetExceeded):
        chat(client, extra_body={"max_completion_tokens": 10_000})
    assert model.requests == []


@pytest.mark.parametrize("most", [-1, 2**63 - 1, 10**30])
def test_a_maximum_that_is_none_reserves_all_the_model_can_write(most, limited, client):
    limited(Tokens(1000))
    with pytest.raises(errors.BudgetExceeded) as caught:
        chat(client, max_completion_tokens=most)
    assert caught.value.requested.steps > 100_000


def test_more_answers_than_the_ledger_can_count_are_refused(limited, client, model):
    limited(Tokens(1000))
    with pytest.raises(errors.BudgetExceeded):
        chat(client, max_completion_tokens=10**12, n=10**12)
    assert model.requests == []


def test_a_request_without_a_maximum_reserves_all_the_model_can_write_and_is_told_how_to_name_one(limited, client):
    limited(Tokens(399_999))
    with pytest.raises(errors.BudgetExceeded) as caught:
        chat(client, max_completion_tokens=openai.NOT_GIVEN)
    assert caught.value.requested.steps > 400_000
    assert "output_tokens_max" in caught.value.__notes__[0]


def test_the_configuration_says_how_much_is_written_where_the_request_does_not(limited, client):
    balance = limited(Tokens(1000), output_tokens_max=200)
    client.chat.completions.create(**ASK)
    assert 0 < balance().spent.steps < 1000


UNKNOWN = {"model": "house-model", "messages": ASK["messages"]}


def test_a_budget_of_money_refuses_a_model_without_a_price_and_says_how_to_give_one(limited, client, model):
    limited(Money("5", "USD"))
    with pytest.raises(errors.Undescribable, match=r"price is not known.*Price\('house-model'.*reserve=Money"):
        client.chat.completions.create(**UNKNOWN, max_tokens=10)
    assert model.requests == []


def test_a_budget_of_tokens_refuses_a_model_whose_maximum_nobody_knows_and_says_how_to_give_one(limited, client, model):
    limited(Tokens(1_000_000))
    with pytest.raises(errors.Undescribable, match=r"names no maximum.*output_tokens_max"):
        client.chat.completions.create(**UNKNOWN)
    client.chat.completions.create(**UNKNOWN, max_tokens=10)
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {"file_id": "f-1"}},
        {"type": "text", "text": "x", "file_id": "f-1"},
    ],
)
def test_what_the_request_does_not_hold_needs_a_bound_of_the_configuration(part, limited, client, model):
    asked = {"model": "house-model", "max_tokens": 10, "messages": [{"role": "user", "content": [part]}]}
    limited(Tokens(1_000_000))
    with pytest.raises(errors.Undescribable, match="input_tokens_max"):
        client.chat.completions.create(**asked)
    limited(Tokens(1_000_000), prices=[Price("house-*", input_tokens_max=900)])
    client.chat.completions.create(**asked)
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    ("price", "spent"),
    [
        (Price("house-*", input=Money("2", "USD"), output=Money("4", "USD")), Money("0.0022", "USD")),
        (
            Price("house-*", input=Money("2", "USD"), output=Money("4", "USD"), cached_input=Money("1", "USD")),
            Money("0.002", "USD"),
        ),
    ],
)
def test_a_price_of_the_configuration_counts(price, spent, limited, client):
    balance = limited(Money("5", "USD"), prices=[price])
    client.chat.completions.create(**UNKNOWN, max_tokens=100, user="used")
    assert balance().spent == spent


def test_a_model_can_be_priced_as_another(limited, client):
    balance = limited(Money("5", "USD"), prices=[Price("house-*", same_as="gpt-5")])
    client.chat.completions.create(**UNKNOWN, max_tokens=100, user="used")
    assert balance().spent == cost_of_used()


def test_a_rule_that_reserves_a_fixed_amount_needs_no_price(limited, client):
    balance = limited(Money("5", "USD"), rules=[Rule("house-*", reserve=Money("0.25", "USD"), side_effect=False)])
    client.chat.completions.create(**UNKNOWN, max_tokens=100)
    assert (balance().spent, balance().held) == (Money("0.25", "USD"), Money("0", "USD"))


# --- settled


def cost_of_used() -> Money:
    return Money((800 * READ + 200 * CACHED + 50 * WRITTEN).scaleb(-6).quantize(Decimal("0.000001")), "USD")


@pytest.mark.parametrize("stream", [False, True])
def test_a_budget_of_money_is_settled_at_the_price_of_what_was_used(stream, limited, client, spans):
    balance = limited(Money("5", "USD"))
    answer = chat(client, "used", stream=stream)
    if stream:
        list(answer)
    assert (balance().spent, balance().held) == (cost_of_used(), Money("0", "USD"))
    assert spans.one(SPAN).attributes["spanledger.usage.source"] == "reported"


def test_a_budget_in_another_currency_is_settled_at_its_rate(limited, client):
    balance = limited(Money("5", "EUR"), rates=[Rate("USD", "EUR", "0.5", "2020-01-01")])
    chat(client, "used")
    assert balance().spent.amount == (cost_of_used().amount / 2).quantize(Decimal("0.000001"), ROUND_HALF_UP)


def test_a_budget_of_tokens_is_settled_with_what_was_really_used(limited, client, awaited):
    balance = limited(Tokens(100_000))
    answers = [chat(client), awaited(chat)]
    used = sum(answer.usage.total_tokens for answer in answers)
    assert balance().spent == Tokens(used)
    list(chunks(client))
    # The server counts an answer by its text, streamed or whole.
    assert balance().spent == Tokens(used + answers[0].usage.total_tokens)
    assert balance().held == Tokens(0)


def test_what_was_used_beyond_the_reservation_is_recorded_not_hidden(limited, client, model):
    balance = limited(Tokens(500))
    chat(client, "used")
    assert balance().spent == Tokens(1050)
    with pytest.raises(errors.BudgetExceeded) as caught:
        chat(client)
    assert caught.value.spent == Tokens(1050)
    assert len(model.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_without_a_reported_usage_what_was_reserved_stays_spent_and_the_span_says_so(stream, limited, client, spans):
    balance = limited(Tokens(1000))
    answer = chat(client, "silent", stream=stream)
    if stream:
        list(answer)
    attributes = spans.one(SPAN).attributes
    assert balance().spent == Tokens(reserved_tokens(spans.one(SPAN)))
    assert balance().held == Tokens(0)
    assert attributes["spanledger.usage.source"] == "reserved"
    assert "gen_ai.usage.input_tokens" not in attributes


@pytest.mark.parametrize("figure", [10**30, 2**63, -5])
def test_a_figure_that_no_model_can_have_used_is_none(figure, limited, spans):
    balance = limited(Tokens(100_000))
    usage = {"prompt_tokens": figure, "completion_tokens": figure, "total_tokens": figure}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
    answer = {"id": "c-1", "object": "chat.completion", "created": 1, "model": "gpt-5", "choices": [choice]}
    body = json.dumps(answer | {"usage": usage}).encode()
    with ModelServer(lambda _request: Raw(body, "application/json")) as server:
        client = openai.OpenAI(base_url=server.url, api_key="offline", max_retries=0)
        assert chat(client).usage.prompt_tokens == figure
    span = spans.one(SPAN)
    assert not [name for name in span.attributes if name.startswith("gen_ai.usage.")]
    assert span.attributes["spanledger.usage.source"] == "reserved"
    assert (balance().held, balance().spent) == (Tokens(0), Tokens(reserved_tokens(span)))


def test_responses_and_embeddings_are_settled_too(instrument_client, dsn, ledger, client):
    instrument_client(dsn=dsn, ledger_timeout_s=10.0, budgets=[Budget("b", Tokens(10_000))])
    used = client.responses.create(model="gpt-5", input="hi", max_output_tokens=100).usage.total_tokens
    assert ledger.budget("b").spent == Tokens(used)
    used += client.embeddings.create(model="text-embedding-3-small", input=["a", "b"]).usage.total_tokens
    assert (ledger.budget("b").spent, ledger.budget("b").held) == (Tokens(used), Tokens(0))


# --- not answered, or not to the end


@pytest.mark.parametrize("amount", [Calls(9), Tokens(1000), Money("1", "USD")], ids=lambda amount: amount.unit)
def test_a_call_that_certainly_failed_costs_nothing(amount, limited, client, awaited):
    balance = limited(amount)
    unreachable = client.with_options(base_url="http://127.0.0.1:9/v1", max_retries=0)
    for failed in (
        lambda: chat(client, "busy"),
        lambda: chunks(client, "busy"),
        lambda: awaited(lambda client: chat(client, "busy")),
        lambda: chat(unreachable),
    ):
        with pytest.raises((openai.RateLimitError, openai.APIConnectionError)):
            failed()
        assert (balance().spent.steps, balance().held.steps) == (0, 0)


def test_an_answer_that_is_not_what_was_wanted_is_paid_for(limited, client, spans):
    balance = limited(Tokens(10_000))
    with pytest.raises(pydantic.ValidationError):
        client.chat.completions.parse(**LIMITED, response_format=Number)
    reserved = reserved_tokens(spans.one(SPAN))
    assert (balance().held, balance().spent) == (Tokens(0), Tokens(reserved))
    assert spans.one(SPAN).attributes["spanledger.usage.source"] == "reserved"


def test_an_answer_that_was_cut_off_before_it_could_be_parsed_costs_what_it_used(limited, client, spans):
    balance = limited(Tokens(10_000))
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**ASK, max_completion_tokens=1, response_format=Number, user="json")
    span = spans.one(SPAN)
    assert span.attributes["gen_ai.response.finish_reasons"] == ("length",)
    used = span.attributes["gen_ai.usage.input_tokens"] + span.attributes["gen_ai.usage.output_tokens"]
    assert (balance().held, balance().spent) == (Tokens(0), Tokens(used))


def test_a_call_whose_answer_never_came_costs_what_it_had_the_model_read(limited, client, spans):
    """Whether a server that does not answer in time has done its work, nobody knows; input it has had."""
    balance = limited(Tokens(1000))
    with pytest.raises(openai.APITimeoutError):
        chat(client.with_options(timeout=0.3), "slow")
    reserved = reserved_tokens(spans.one(SPAN))
    assert (balance().spent, balance().held) == (Tokens(reserved - 100), Tokens(0))


def drained_in_part(stream: openai.Stream) -> None:
    for _ in stream:
        break


def closed(stream: openai.Stream) -> None:
    next(stream)
    stream.close()


def never_begun(stream: openai.Stream) -> None:
    pass


@pytest.mark.parametrize("use", [drained_in_part, closed, never_begun], ids=lambda use: use.__name__)
def test_an_abandoned_stream_costs_what_is_known_of_it_and_holds_nothing(use, limited, client, spans):
    balance = limited(Tokens(1000))
    stream = chunks(client)
    assert balance().held.steps > 100
    use(stream)
    del stream
    gc.collect()
    spent = until_nothing_is_held(balance).spent.steps
    attributes = spans.one(SPAN).attributes
    reserved = reserved_tokens(spans.one(SPAN))
    assert reserved - 100 <= spent < reserved - 80, "the input, and what was seen of the output"
    assert attributes["spanledger.usage.source"] == "estimated"


def test_an_awaited_stream_that_is_broken_off_or_cancelled_holds_nothing(limited, awaited):
    balance = limited(Tokens(2000))

    async def broken_off(client: openai.AsyncOpenAI) -> None:
        async for _ in await chunks(client):
            break

    async def cancelled(client: openai.AsyncOpenAI) -> None:
        begun = asyncio.Event()

        async def read() -> None:
            async for _ in await chunks(client):
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    awaited(broken_off)
    awaited(cancelled)
    gc.collect()
    assert until_nothing_is_held(balance).spent.steps > 100


def test_a_stream_that_breaks_off_costs_what_was_seen_and_its_error_is_the_callers(limited, client, spans):
    with pytest.raises(Exception, match=r".") as plain:
        list(chunks(client, "hung_up"))
    balance = limited(Tokens(1000))
    stream = chunks(client, "hung_up")
    with pytest.raises(type(plain.value), match=re.escape(str(plain.value))):
        list(stream)
    reserved = reserved_tokens(spans.one(SPAN))
    assert (balance().spent, balance().held) == (Tokens(reserved - 100 + len("twelve bytes")), Tokens(0))
    assert spans.one(SPAN).status.status_code is StatusCode.ERROR


def test_a_stream_of_garbage_is_the_callers_error_and_holds_nothing(limited, client, spans):
    balance = limited(Tokens(1000))
    stream = chunks(client, "garbage")
    with pytest.raises(ValueError, match="Expecting property name"):
        list(stream)
    assert balance().held == Tokens(0)
    assert spans.one(SPAN).attributes["error.type"] == "json.decoder.JSONDecodeError"


def test_many_refused_and_cancelled_calls_leave_nothing_behind(limited, awaited, model):
    """Reservations that leak add up until nothing is admitted any more."""
    balance = limited(Tokens(100_000))

    async def storm(client: openai.AsyncOpenAI) -> None:
        async def one(number: int) -> None:
            user = ("say", "busy", "hung_up", "silent")[number % 4]
            stream = await chunks(client, user)
            async for _ in stream:
                if number % 3 == 0:
                    break

        tasks = [asyncio.create_task(one(number)) for number in range(24)]
        await asyncio.sleep(0.05)
        for task in tasks[::5]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    awaited(storm)
    gc.collect()
    assert until_nothing_is_held(balance).spent.steps < 100_000


@pytest.mark.usefixtures("instrumented_client")
def test_a_call_that_no_budget_covers_does_not_ask_the_ledger(client, spans):
    client.chat.completions.create(**ASK)
    assert "spanledger.verdict" not in spans.one(SPAN).attributes


# --- what is kept


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_kept_by_kind_as_the_provider_reported_them(limited, client, ledger, stream):
    limited(Calls(5))
    answer = chunks(client, stream_options={"include_usage": True}) if stream else chat(client)
    if stream:
        list(answer)
    until_nothing_is_held(lambda: ledger.budget("b"))

    (call,) = ledger.calls()

    assert call["usage"]["input_tokens"] + call["usage"]["output_tokens"] == call["cost"]["tokens"]
    assert call["usage"]["output_tokens"] > 0
