"""Every way to use a model of OpenAI is traced and asked about: no method of the client spends past a budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from opentelemetry.trace import StatusCode

from spanledger import Balance, Budget, Calls, Ledger, Tokens, errors
from spanledger.testing._http import LoopbackServer, Reply, Request, json_reply

READ = {"input_tokens": 1000, "input_tokens_details": {"cached_tokens": 200, "cache_write_tokens": 100}}
USED = {**READ, "output_tokens": 50, "output_tokens_details": {"reasoning_tokens": 20}, "total_tokens": 1050}
CHAT_USED = {
    "prompt_tokens": 1000,
    "prompt_tokens_details": {"cached_tokens": 200, "cache_write_tokens": 100},
    "completion_tokens": 50,
    "completion_tokens_details": {"reasoning_tokens": 20},
    "total_tokens": 1050,
}
RESPONSE = {"id": "r-1", "object": "response", "created_at": 1, "model": "gpt-5", "output": [], "usage": USED}
TEXT = {"id": "c-1", "object": "text_completion", "created": 1, "model": "gpt-5"}
ANSWERS = {
    "/responses": RESPONSE | {"status": "completed"},
    "/responses/compact": RESPONSE | {"object": "response.compaction"},
    "/decisions": {"answers": [], "model": "gpt-6-luna", "usage": USED},
    "/completions": TEXT | {"choices": [{"index": 0, "text": "two", "finish_reason": "stop"}], "usage": CHAT_USED},
}
PIECES = [
    TEXT | {"choices": [{"index": 0, "text": "two ", "finish_reason": None}], "usage": None},
    TEXT | {"choices": [{"index": 0, "text": "three", "finish_reason": "length"}], "usage": None},
    TEXT | {"choices": [], "usage": CHAT_USED},
]


class Server(LoopbackServer):
    """Answers in the protocols that few servers speak."""

    asked: list[dict[str, Any]]

    def answer(self, request: Request) -> Reply:
        body = request.json_object()
        self.asked.append(body)
        if body.get("stream"):
            told = PIECES if "stream_options" in body else PIECES[:-1]
            events = [*map(json.dumps, told), "[DONE]"]
            return Reply(200, "".join(f"data: {event}\n\n" for event in events).encode(), "text/event-stream")
        return json_reply(200, ANSWERS[request.path])


DOORS: dict[str, Callable[[Any], Any]] = {
    "a text": lambda client: client.completions.create(model="gpt-5", prompt="one", max_tokens=50),
    "a compaction": lambda client: client.responses.compact(model="gpt-5", input="one"),
    "a beta response": lambda client: client.beta.responses.create(model="gpt-5", input="one", max_output_tokens=50),
    "a beta compaction": lambda client: client.beta.responses.compact(model="gpt-5", input="one"),
    "a decision": lambda client: client.decisions.create(model="gpt-6-luna", input="one", questions=[]),
}


def has(door: Callable[[Any], Any]) -> bool:
    """Tell whether the installed version has a way to ask."""
    try:
        with openai.OpenAI(base_url="http://127.0.0.1:9", api_key="offline", max_retries=0) as client:
            door(client)
    except openai.APIConnectionError:
        return True
    except AttributeError:
        return False
    raise AssertionError("somebody answers there")


HERE = {name: door for name, door in DOORS.items() if has(door)}


@pytest.fixture
def provider() -> Iterator[Server]:
    with Server() as server:
        server.asked = []
        yield server


@pytest.fixture
def client(provider: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=provider.url, api_key="offline", max_retries=0) as client:
        yield client


@pytest.fixture
def limited(instrument_client: Callable[..., None], dsn: str, ledger: Ledger) -> Callable[..., Callable[[], Balance]]:
    def limit(amount: Tokens | Calls, **fields: Any) -> Callable[[], Balance]:
        instrument_client(dsn=dsn, ledger_timeout_s=10.0, budgets=[Budget("b", amount)], **fields)
        return lambda: ledger.budget("b")

    return limit


@pytest.mark.parametrize("door", HERE.values(), ids=HERE)
def test_what_a_model_used_is_on_its_span_and_spent(door, limited, client, spans):
    balance = limited(Tokens(10_000_000))
    answer = door(client)
    (span,) = spans.all()
    assert span.attributes["gen_ai.response.id" if hasattr(answer, "id") else "gen_ai.response.model"]
    assert {name[13:]: span.attributes[name] for name in span.attributes if name.startswith("gen_ai.usage.")} == {
        "input_tokens": 1000,
        "output_tokens": 50,
        "cache_read.input_tokens": 200,
        "cache_write.input_tokens": 100,
        "reasoning.output_tokens": 20,
    }
    assert (balance().held, balance().spent) == (Tokens(0), Tokens(1050))


@pytest.mark.parametrize("door", HERE.values(), ids=HERE)
def test_beyond_a_budget_nothing_is_sent(door, limited, client, provider, spans):
    limited(Calls(0))
    with pytest.raises(errors.BudgetExceeded):
        door(client)
    assert provider.asked == []
    assert spans.all()[0].status.status_code is StatusCode.ERROR


def test_a_streamed_text_is_measured_and_the_piece_with_its_usage_hidden(limited, client, spans):
    balance = limited(Tokens(10_000_000))
    pieces = list(client.completions.create(model="gpt-5", prompt="one", max_tokens=50, stream=True))
    assert [piece.choices[0].text for piece in pieces] == ["two ", "three"]
    span = spans.one("text_completion gpt-5")
    assert span.attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert span.attributes["gen_ai.usage.output_tokens"] == 50
    assert balance().spent == Tokens(1050)


@pytest.mark.parametrize(
    ("more", "answers"),
    [
        ({"prompt": "one"}, 1),
        ({"prompt": [1, 2]}, 1),
        ({"prompt": ["one", "two"]}, 2),
        ({"prompt": [[1], [2], [3]], "n": 2}, 6),
        ({"prompt": "one", "best_of": 4}, 4),
    ],
)
def test_each_prompt_and_each_answer_is_reserved(more, answers, limited, client, spans):
    limited(Tokens(10_000_000))
    client.completions.create(model="gpt-5", max_tokens=10_000, **more)
    reserved = next(amount for amount in spans.all()[0].attributes["spanledger.reserved"] if "tokens" in amount)
    assert 0 < int(reserved.removesuffix(" tokens")) - 10_000 * answers < 1000


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_said_in_a_text_is_recorded_where_somebody_asks_for_it(stream, limited, client, spans):
    limited(Calls(5), capture_content="span_only")
    answer = client.completions.create(model="gpt-5", prompt="one", stream=stream)
    said = "".join(piece.choices[0].text for piece in answer) if stream else answer.choices[0].text
    attributes = spans.one("text_completion gpt-5").attributes
    asked, answered = (json.loads(attributes[f"gen_ai.{name}.messages"]) for name in ("input", "output"))
    assert asked == [{"role": "user", "parts": [{"type": "text", "content": "one"}]}]
    assert answered[0]["parts"] == [{"type": "text", "content": said}]
