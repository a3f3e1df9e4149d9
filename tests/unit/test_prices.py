"""What models cost, how much a request can use, and how the configuration says it."""

from __future__ import annotations

import datetime as dt
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import genai_prices
import pydantic
import pytest
from genai_prices import data_snapshot

from spanledger import Call, Config, Money, Price, Usage
from spanledger.errors import ConfigError
from spanledger.instrument import _bounds, _prices

NOW = dt.datetime.now(dt.UTC)
MODELS = [model for provider in data_snapshot.get_snapshot().providers for model in provider.models]
USED = (
    Usage(input_tokens=1000, output_tokens=10),
    Usage(input_tokens=300_000, output_tokens=999, cached_tokens=1000, cache_written_tokens=500),
    Usage(input_tokens=300_000, cached_tokens=9, cache_written_tokens=500, cache_written_1h_tokens=100),
)


@pytest.mark.parametrize("usage", USED)
def test_a_price_is_that_of_the_public_lists_for_every_model_there_is(usage):
    for model in MODELS:
        prices = model.get_prices(NOW)
        listed = prices.calc_price(
            genai_prices.Usage(
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cache_read_tokens=usage.cached_tokens,
                cache_write_tokens=usage.cache_written_tokens,
                cache_write_1h_tokens=usage.cache_written_1h_tokens,
            )
        )["total_price"]
        ours = _prices._tariff(prices.__dict__, None).cost(usage)
        assert ours.amount == listed.quantize(Decimal("0.000001"), ROUND_HALF_UP), model.id


@pytest.mark.parametrize("usage", USED)
def test_nothing_costs_more_than_the_most_it_can_cost(usage):
    for model in MODELS:
        tariff = _prices._tariff(model.get_prices(NOW).__dict__, None)
        most = tariff.most(usage.input_tokens or 0, usage.output_tokens or 0, writes_cache=True)
        assert tariff.cost(usage).micros <= most.micros, model.id


def test_an_unknown_model_has_no_price_and_what_was_not_reported_none():
    call = Call("house-model", "chat")
    assert _prices.price(call, Usage(input_tokens=1)) is None
    assert _prices.price(Call("gpt-5", "chat"), Usage()) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"match": ""}, "name of a model"),
        ({"input": Money(1, "USD")}, "go together"),
        ({"cached_input": Money(1, "USD")}, "go together"),
        ({"input": Money(1, "USD"), "output": Money(1, "EUR")}, "one currency"),
        ({"input": 1.5, "output": Money(1, "EUR")}, "are Money"),
        ({"same_as": "gpt-5", "input": Money(1, "USD"), "output": Money(1, "USD")}, "takes the place"),
        ({"same_as": ""}, "name of a model"),
        ({"output_tokens_max": 0}, "at least 1"),
        ({"input_tokens_max": True}, "at least 1"),
    ],
)
def test_a_price_that_cannot_work_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        Price(**{"match": "m", **given})


def test_a_file_says_prices(tmp_path):
    path = tmp_path / "spanledger.toml"
    path.write_text(
        'output_tokens_max = 4096\n[[prices]]\nmatch = "house-*"\ninput = "0.50 USD"\noutput = "1.50 USD"\n'
        '[[prices]]\nmatch = "mine"\nsame_as = "gpt-5"\n'
    )
    config = Config.from_file(path)
    assert config.output_tokens_max == 4096
    assert config.prices == (
        Price("house-*", input=Money("0.50", "USD"), output=Money("1.50", "USD")),
        Price("mine", same_as="gpt-5"),
    )


class Answer(pydantic.BaseModel):
    number: int


@pytest.mark.parametrize(
    "more",
    [
        {"previous_response_id": "r-1"},
        {"conversation": "c-1"},
        {"thread": {"type": "continue", "previous_message_id": "m-1"}},
        {"input": [{"type": "item_reference", "id": "m-1"}]},
        {"web_search_options": {}},
        {"mcp_servers": [{"url": "x"}]},
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "mcp", "server_url": "x"}]},
        {"tools": iter([])},
        {"messages": iter([])},
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "input_file", "file_url": "x"}]}]},
        {"messages": [{"role": "user", "content": object()}]},
        {"messages": [{"role": "user", "content": int}]},
    ],
)
def test_what_is_not_in_the_request_has_no_bound(more: dict[str, Any]):
    assert _bounds.input_tokens({"model": "m", **more}) is None


@pytest.mark.parametrize(
    "more",
    [
        {"messages": [{"role": "user", "content": "x" * 500}]},
        {"messages": [Answer(number=10**500)]},
        {"response_format": Answer, "input": "x" * 500},
        {"messages": [{"content": [{"type": "document", "source": {"type": "text", "data": "x" * 500}}]}]},
        {"tools": [{"type": "function", "function": {"name": "x" * 500}}]},
        {"tools": [{"name": "x" * 500, "input_schema": {}}, {"type": "bash_20250124", "name": "bash"}]},
        {"input": [[1, 2, 3] * 170]},
        {"extra_body": {"more": "x" * 500}, "previous_response_id": None},
    ],
)
def test_what_is_in_the_request_is_counted_whole(more: dict[str, Any]):
    tokens = _bounds.input_tokens({"model": "m", **more})
    assert tokens is not None
    assert 500 <= tokens < 3000


def test_what_nests_too_deep_has_no_bound():
    deep: Any = "x"
    for _ in range(1000):
        deep = [deep]
    assert _bounds.input_tokens({"input": deep}) is None
