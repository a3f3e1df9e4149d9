"""The model server's other protocols, driven by the real clients: one script serves them all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from spanledger.testing import CallTool, Counted, Fail, ModelServer, Raw, Say, call_tool_once

REFUND = CallTool("refund", {"order_id": "o-1", "note": "ä"})
MESSAGES = [{"role": "user", "content": "hello"}]
CLAUDE = {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": MESSAGES}
TOOL = {"name": "refund", "description": "x", "input_schema": {"type": "object", "properties": {}}}


class Provider(ModelServer):
    """A server with a client of each kind."""

    def start(self) -> Provider:
        super().start()
        self.openai = openai.OpenAI(base_url=self.url, api_key="offline", max_retries=0)
        self.anthropic = anthropic.Anthropic(base_url=self.anthropic_url, api_key="offline", max_retries=0)
        return self

    def stop(self) -> None:
        self.openai.close()
        self.anthropic.close()
        super().stop()


def script(request: dict[str, Any]) -> Any:
    said = request["messages"][-1]["content"]
    return {
        "hello": Say("one two  three"),
        "tool": REFUND,
        "tools": [REFUND, CallTool("mail", {})],
        "busy": Fail(429, "slow down"),
        "known": Say("x", used=Counted(100, 20, cached_tokens=30, cache_written_tokens=40, reasoning_tokens=5)),
        "silent": Say("x", reports_usage=False),
    }[said]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(script) as provider:
        yield provider


def claude(text: str) -> dict[str, Any]:
    return CLAUDE | {"messages": [{"role": "user", "content": text}]}


# --- OpenAI's responses


def test_a_response_says_what_the_script_says(provider) -> None:
    answer = provider.openai.responses.create(model="gpt-5", input="hello")
    assert (answer.output_text, answer.status) == ("one two  three", "completed")
    assert answer.model == "gpt-5-2025-08-07"
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens > 0


def test_a_response_that_asks_for_tools_has_their_calls(provider) -> None:
    calls = provider.openai.responses.create(model="gpt-5", input="tools").output
    assert [call.name for call in calls] == ["refund", "mail"]
    assert json.loads(calls[0].arguments) == REFUND.arguments
    assert len({call.call_id for call in calls}) == 2


@pytest.mark.parametrize("text", ["hello", "tool", "tools"])
def test_a_streamed_response_is_assembled_by_the_client_to_the_same(text, provider) -> None:
    whole = provider.openai.responses.create(model="gpt-5", input=text)
    with provider.openai.responses.stream(model="gpt-5", input=text) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_response()
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert streamed.usage == whole.usage
    assert streamed.output_text == whole.output_text
    assert [getattr(o, "arguments", None) for o in streamed.output] == [
        getattr(o, "arguments", None) for o in whole.output
    ]


def test_an_answer_stops_at_the_limit_of_the_request(provider) -> None:
    response = provider.openai.responses.create(model="gpt-5", input="hello", max_output_tokens=2)
    assert (response.output_text, response.status) == ("one two ", "incomplete")
    assert response.incomplete_details.reason == "max_output_tokens"
    chat = provider.openai.chat.completions.create(model="gpt-5", messages=MESSAGES, max_completion_tokens=2, n=2)
    assert [choice.finish_reason for choice in chat.choices] == ["length", "length"]
    assert chat.usage.completion_tokens == 4
    message = provider.anthropic.messages.create(**CLAUDE | {"max_tokens": 2})
    assert (message.content[0].text, message.stop_reason) == ("one two ", "max_tokens")


# --- Anthropic's messages


def test_a_message_says_what_the_script_says(provider) -> None:
    answer = provider.anthropic.messages.create(**CLAUDE)
    assert [block.text for block in answer.content] == ["one two  three"]
    assert (answer.stop_reason, answer.model) == ("end_turn", "claude-haiku-4-5-20251001")
    assert answer._request_id.startswith("req_")


def test_a_message_that_asks_for_tools_has_their_calls(provider) -> None:
    answer = provider.anthropic.messages.create(**claude("tools"), tools=[TOOL])
    assert [(block.name, block.input) for block in answer.content] == [("refund", REFUND.arguments), ("mail", {})]
    assert answer.stop_reason == "tool_use"


@pytest.mark.parametrize("text", ["hello", "tool", "tools", "known"])
def test_a_streamed_message_is_assembled_by_the_client_to_the_same(text, provider) -> None:
    whole = provider.anthropic.messages.create(**claude(text))
    with provider.anthropic.messages.stream(**claude(text)) as stream:
        streamed = stream.get_final_message()
    said = [[getattr(b, "text", None) or b.input for b in message.content] for message in (streamed, whole)]
    assert said[0] == said[1]
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert streamed.usage.cache_read_input_tokens == whole.usage.cache_read_input_tokens


def test_beta_messages_are_answered_too(provider) -> None:
    assert provider.anthropic.beta.messages.create(**CLAUDE).content[0].text == "one two  three"


# --- what all have in common


def test_an_error_is_the_clients_own_in_every_protocol(provider) -> None:
    with pytest.raises(openai.RateLimitError, match="slow down") as of_openai:
        provider.openai.responses.create(model="gpt-5", input="busy")
    with pytest.raises(anthropic.RateLimitError, match="slow down") as of_anthropic:
        provider.anthropic.messages.create(**claude("busy"))
    assert of_openai.value.request_id != of_anthropic.value.request_id


def test_given_figures_come_back_as_each_protocol_counts(provider) -> None:
    response = provider.openai.responses.create(model="gpt-5", input="known").usage
    assert (response.input_tokens, response.input_tokens_details.cached_tokens) == (100, 30)
    assert response.output_tokens_details.reasoning_tokens == 5
    message = provider.anthropic.messages.create(**claude("known")).usage
    assert (message.input_tokens, message.cache_read_input_tokens, message.cache_creation_input_tokens) == (30, 30, 40)


def test_a_server_that_reports_no_usage_reports_none(provider) -> None:
    asked = {"model": "m", "messages": [{"role": "user", "content": "silent"}]}
    assert provider.openai.chat.completions.create(**asked).usage is None
    options = {"include_usage": True}
    assert all(
        c.usage is None for c in provider.openai.chat.completions.create(**asked, stream=True, stream_options=options)
    )
    assert provider.openai.responses.create(model="m", input="silent").usage is None


def test_one_script_serves_a_conversation_with_tools_in_every_protocol() -> None:
    with Provider(call_tool_once("refund", lambda text: {"order_id": text})) as provider:
        question = {"role": "user", "content": "o-7"}
        client = provider.openai

        call = client.responses.create(model="m", input=[question]).output[0]
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "paid"}
        asked = [question, call.model_dump(exclude_none=True), output]
        assert client.responses.create(model="m", input=asked).output_text == "Done. refund answered: paid"

        ask = {"model": "m", "max_tokens": 99}
        use = provider.anthropic.messages.create(**ask, messages=[question]).content[0]
        result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "paid"}]}
        then = [question, {"role": "assistant", "content": [use.model_dump()]}, {"role": "user", "content": [result]}]
        answer = provider.anthropic.messages.create(**ask, messages=then).content[0].text
        assert answer == "Done. refund answered: paid"


def test_the_same_text_has_the_same_embedding(provider) -> None:
    answer = provider.openai.embeddings.create(model="text-embedding-3-small", input=["a", "b", "a"])
    first, second, third = (one.embedding for one in answer.data)
    assert first == third != second
    assert answer.usage.prompt_tokens == 3


def test_raw_bytes_reach_the_client_as_they_are_and_a_piece_that_raises_hangs_up() -> None:
    def pieces() -> Iterator[bytes]:
        yield b'data: {"id": "1", "object": "chat.completion.chunk", "model": "m", "created": 1, "choices": []}\n\n'
        raise ConnectionAbortedError

    with Provider(lambda _: Raw(pieces())) as provider:
        stream = provider.openai.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        assert next(stream).id == "1"
        with pytest.raises(openai.APIConnectionError):
            list(stream)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("responses", {"model": "m"}),
        ("responses", {"input": "x"}),
        ("responses", {"model": "m", "input": "x", "previous_response_id": "r"}),
        ("embeddings", {"model": "m", "input": ""}),
        ("embeddings", {"input": "x"}),
        ("messages", {"model": "m", "messages": MESSAGES}),
        ("messages", {"max_tokens": 1, "messages": MESSAGES}),
        ("messages", {"model": "m", "max_tokens": 1, "messages": []}),
        ("messages", {"model": "m", "max_tokens": 1, "messages": [{"role": "system", "content": "x"}]}),
    ],
)
def test_a_request_the_provider_would_refuse_is_refused(path, body, provider) -> None:
    with pytest.raises(openai.BadRequestError):
        provider.openai.post(f"/{path}", body=body, cast_to=object)
    assert provider.requests == []


def test_without_a_key_nothing_is_answered(provider) -> None:
    answer = httpx2.post(f"{provider.url}/messages", json=CLAUDE)
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
    assert provider.requests == []
