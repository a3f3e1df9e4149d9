"""What is said in model calls: on spans and in events, where somebody asks for it, by every shape of the clients."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
from anthropic_world import TOOL
from anthropic_world import script as anthropic_script
from opentelemetry import trace
from tests.measured import Measured

import spanledger
from spanledger import Budget, Config, Tokens
from spanledger.core import messages as reading
from spanledger.core import said
from spanledger.instrument import _under_way
from spanledger.testing import ModelServer

EVENT = "gen_ai.client.inference.operation.details"
NAMES = ("input.messages", "output.messages", "system_instructions", "tool.definitions")
ANSWER = [{"role": "assistant", "parts": [{"type": "text", "content": "one two three"}], "finish_reason": "stop"}]
HI = [{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]
CHAT_TOOLS = [
    {"type": "function", "function": {"name": "refund", "description": "x", "parameters": {"type": "object"}}}
]
DEFINED = [{"type": "function", "name": "refund", "description": "x", "parameters": {"type": "object"}}]
ASKED_TOOL = {"type": "tool_call", "name": "refund", "arguments": {"order_id": "o-1"}}


@pytest.fixture
def capturing() -> Callable[..., None]:
    """Instrument the clients with content on spans, unless the test wants it elsewhere; no ledger is there."""

    def instrument(capture: str = "span_only", **fields: Any) -> None:
        config = Config(**{"dsn": "host=/nowhere", "capture_content": capture} | fields)
        spanledger.instrument(config, libraries=["openai", "anthropic"])

    return instrument


@pytest.fixture
def ask(model: ModelServer) -> Iterator[openai.OpenAI]:
    """A client of OpenAI's."""
    with openai.OpenAI(base_url=model.url, api_key="offline", max_retries=0) as client:
        yield client


@pytest.fixture
def ask_claude() -> Iterator[anthropic.Anthropic]:
    """A client of Anthropic's."""
    with (
        ModelServer(anthropic_script) as model,
        anthropic.Anthropic(base_url=model.anthropic_url, api_key="offline", max_retries=0) as client,
    ):
        yield client


def on_span(spans: Any) -> dict[str, Any]:
    """What the only span says, by the end of its name."""
    (span,) = [one for one in spans.all() if one.name.startswith("chat ")]
    found = {name: span.attributes.get(f"gen_ai.{name}") for name in NAMES}
    return {name: json.loads(text) for name, text in found.items() if text is not None}


def chat(wanted: str = "say", **more: Any) -> dict[str, Any]:
    return {"model": "gpt-5", "messages": [{"role": "user", "content": "hi"}], "user": wanted} | more


def claude(wanted: str = "say", **more: Any) -> dict[str, Any]:
    return {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": wanted}]} | more


# --- where it goes


@pytest.mark.parametrize(
    ("capture", "on_spans", "on_events"),
    [
        ("no_content", False, False),
        ("span_only", True, False),
        ("event_only", False, True),
        ("span_and_event", True, True),
    ],
)
def test_messages_are_where_they_were_asked_for(
    capture, on_spans, on_events, capturing, ask, spans, measured: Measured
):
    capturing(capture)
    ask.chat.completions.create(**chat(tools=CHAT_TOOLS))

    seen = {"input.messages": HI, "output.messages": ANSWER, "tool.definitions": DEFINED}
    assert on_span(spans) == (seen if on_spans else {})
    told = [event.attributes for event in measured.events() if event.event_name == EVENT]
    assert len(told) == on_events
    for attributes in told:
        # Structured, as the conventions want it of events.
        assert {name: plain(attributes[f"gen_ai.{name}"]) for name in seen} == seen
        assert attributes["gen_ai.request.model"] == "gpt-5"
        assert attributes["gen_ai.response.model"] == "gpt-5-2025-08-07"
        assert attributes["gen_ai.usage.output_tokens"] > 0


@pytest.mark.parametrize(
    ("capture", "events", "on_spans", "told", "with_messages"),
    [
        ("no_content", True, False, True, False),
        ("span_only", True, True, True, False),
        ("event_only", True, False, True, True),
        ("event_only", False, False, False, False),
        ("span_and_event", False, True, False, False),
        ("no_content", None, False, False, False),
    ],
)
def test_whether_model_calls_are_told_in_events_can_be_said_apart_from_content(
    capture, events, on_spans, told, with_messages, capturing, ask, spans, measured: Measured
):
    capturing(capture, model_events=events)
    ask.chat.completions.create(**chat())
    with pytest.raises(openai.RateLimitError):
        ask.chat.completions.create(**chat("busy"))

    found = [event.attributes for event in measured.events() if event.event_name == EVENT]
    assert [attributes.get("error.type") for attributes in found] == [None, "openai.RateLimitError"][: 2 * told]
    assert [any(name.endswith("messages") for name in attributes) for attributes in found] == [with_messages][
        : 2 * told
    ] * 2
    if told:
        assert found[0]["gen_ai.usage.output_tokens"] > 0
    assert any("gen_ai.input.messages" in span.attributes for span in spans.all()) == on_spans


def plain(value: Any) -> Any:
    """What the SDK keeps of a structure, as lists and dicts."""
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return {key: plain(item) for key, item in value.items()} if hasattr(value, "items") else value


def test_an_event_belongs_to_the_span_of_its_call_and_tells_of_its_failure(capturing, ask, spans, measured: Measured):
    capturing("event_only")
    with pytest.raises(openai.RateLimitError):
        ask.chat.completions.create(**chat("busy"))

    (event,) = measured.events()
    (span,) = spans.all()
    assert (event.trace_id, event.span_id) == (span.context.trace_id, span.context.span_id)
    assert event.attributes["error.type"] == "openai.RateLimitError"
    assert plain(event.attributes["gen_ai.input.messages"]) == HI
    assert "gen_ai.output.messages" not in event.attributes


def test_nothing_is_read_where_nobody_takes_it(capturing, ask, monkeypatch):
    monkeypatch.setattr(_under_way, "Heard", None)
    capturing("no_content")
    ask.chat.completions.create(**chat())


# --- every shape of the clients


def whole(create: Callable[..., Any], request: dict[str, Any]) -> None:
    create(**request)


def streamed(create: Callable[..., Any], request: dict[str, Any]) -> None:
    assert list(create(**request, stream=True))


@pytest.mark.parametrize("shape", [whole, streamed])
@pytest.mark.parametrize("wanted", ["say", "tool"])
def test_chats_are_read_whole_and_streamed_alike(shape, wanted, capturing, ask, spans):
    capturing()
    shape(ask.chat.completions.create, chat(wanted))

    assert on_span(spans)["input.messages"] == HI
    check_answer(on_span(spans)["output.messages"], wanted, "call_")


@pytest.mark.parametrize("shape", [whole, streamed])
@pytest.mark.parametrize("wanted", ["say", "tool"])
def test_responses_are_read_whole_and_streamed_alike(shape, wanted, capturing, ask, spans):
    capturing()
    tools = [{"type": "function", **CHAT_TOOLS[0]["function"]}, {"type": "web_search"}]
    shape(
        ask.responses.create,
        {"model": "gpt-5", "input": "hi", "instructions": "be brief", "user": wanted, "tools": tools},
    )

    seen = on_span(spans)
    assert seen["input.messages"] == HI
    assert seen["system_instructions"] == [{"type": "text", "content": "be brief"}]
    assert seen["tool.definitions"] == [*DEFINED, {"type": "web_search", "name": "web_search"}]
    check_answer(seen["output.messages"], wanted, "call_")


@pytest.mark.parametrize("shape", [whole, streamed])
@pytest.mark.parametrize("wanted", ["say", "tool"])
@pytest.mark.parametrize("beta", [False, True])
def test_claudes_messages_are_read_whole_and_streamed_alike(beta, shape, wanted, capturing, ask_claude, spans):
    capturing()
    resource = ask_claude.beta.messages if beta else ask_claude.messages
    shape(resource.create, claude(wanted, system="be brief", tools=[TOOL]))

    seen = on_span(spans)
    assert seen["input.messages"] == [{"role": "user", "parts": [{"type": "text", "content": wanted}]}]
    assert seen["system_instructions"] == [{"type": "text", "content": "be brief"}]
    assert seen["tool.definitions"] == [
        {"type": "function", "name": "refund", "description": "x", "parameters": {"type": "object", "properties": {}}}
    ]
    check_answer(seen["output.messages"], wanted, "toolu_")


def check_answer(messages: list[dict[str, Any]], wanted: str, prefix: str) -> None:
    if wanted == "say":
        assert messages == ANSWER
        return
    (message,) = messages
    (part,) = message["parts"]
    assert part.pop("id").startswith(prefix)
    assert part == ASKED_TOOL
    assert message["finish_reason"] == "tool_call"


def test_helpers_for_streams_and_parsed_and_raw_answers_are_read(capturing, ask, ask_claude, spans):
    capturing()
    with ask_claude.messages.stream(**claude()) as stream:
        stream.get_final_message()
    ask.chat.completions.with_raw_response.create(**chat()).parse()
    with ask.chat.completions.with_streaming_response.create(**chat()) as response:
        response.parse()
    with ask.responses.stream(model="gpt-5", input="hi", user="say") as events:
        events.get_final_response()

    assert len(spans.all()) == 4
    for span in spans.all():
        assert json.loads(span.attributes["gen_ai.output.messages"]) == ANSWER


def test_awaiting_clients_are_read_as_blocking_ones(capturing, awaited, spans):
    capturing()

    async def ask(client: openai.AsyncOpenAI) -> None:
        await client.chat.completions.create(**chat())
        async for _ in await client.chat.completions.create(**chat(stream=True)):
            pass
        async for _ in await client.responses.create(model="gpt-5", input="hi", user="say", stream=True):
            pass

    awaited(ask)
    assert len(spans.all()) == 3
    for span in spans.all():
        assert json.loads(span.attributes["gen_ai.input.messages"]) == HI
        assert json.loads(span.attributes["gen_ai.output.messages"]) == ANSWER


def test_of_a_stream_that_is_broken_off_there_is_what_came(capturing, ask, ask_claude, spans):
    capturing()
    for create, request, chunks in (
        (ask.chat.completions.create, chat(), 3),
        (ask.responses.create, {"model": "gpt-5", "input": "hi", "user": "say"}, 6),
        (ask_claude.messages.create, claude(), 4),
    ):
        stream = create(**request, stream=True)
        for _ in range(chunks):
            next(stream)
        stream.close()

    for span in spans.all():
        (message,) = json.loads(span.attributes["gen_ai.output.messages"])
        assert message["parts"][0]["content"] in {"one", "one ", "one two", "one two "}, span.attributes
        assert "finish_reason" not in message


def test_a_stream_that_fails_says_what_came_before(capturing, ask, ask_claude, spans):
    capturing()
    for create, request in (
        (ask.chat.completions.create, chat("hung_up")),
        (ask_claude.messages.create, claude("hung_up")),
    ):
        assert what_it_raises(lambda: list(create(**request, stream=True))) is not None  # noqa: B023 - called at once

    assert [json.loads(span.attributes["gen_ai.output.messages"])[0]["parts"] for span in spans.all()] == 2 * [
        [{"type": "text", "content": "twelve bytes"}]
    ]


def test_a_generator_of_messages_reaches_the_provider_whole(capturing, ask, spans, model: ModelServer):
    capturing()
    ask.chat.completions.create(**chat(messages=(one for one in chat()["messages"])))

    assert on_span(spans)["input.messages"] == HI


def test_what_was_asked_is_as_it_was_when_it_was_sent(capturing, ask, spans):
    capturing()
    messages = [{"role": "user", "content": "hi"}]
    stream = ask.chat.completions.create(**chat(messages=messages, stream=True))
    messages[0]["content"] = "changed"
    messages.append({"role": "user", "content": "more"})
    list(stream)

    assert on_span(spans)["input.messages"] == HI


def test_a_call_that_was_not_sent_says_nothing(capturing, ask, spans, dsn):
    capturing(dsn=dsn, budgets=[Budget("none", Tokens(1), operations=["chat"])])
    with pytest.raises(spanledger.errors.BudgetExceeded), spanledger.workflow("w"):
        ask.chat.completions.create(**chat(max_completion_tokens=10))

    assert on_span(spans) == {}


# --- what a conversation is made of


def test_a_conversation_of_a_chat_is_read_part_by_part(capturing, ask, spans):
    capturing()
    image = "data:image/png;base64," + "A" * 400
    call = {"id": "c1", "type": "function", "function": {"name": "refund", "arguments": '{"order_id": "o-1"}'}}
    messages = [
        {"role": "developer", "content": "be brief"},
        {
            "role": "user",
            "name": "ada",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": image}},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "file", "file": {"file_id": "file-1"}},
            ],
        },
        {"role": "assistant", "content": None, "refusal": "no", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
    ]
    ask.chat.completions.create(**chat(messages=messages))

    assert on_span(spans)["input.messages"] == [
        {"role": "developer", "parts": [{"type": "text", "content": "be brief"}]},
        {
            "role": "user",
            "name": "ada",
            "parts": [
                {"type": "text", "content": "look"},
                {"type": "blob", "modality": "image", "mime_type": "image/png", "size_bytes": 300},
                {"type": "uri", "modality": "image", "uri": "https://example.com/a.png"},
                {"type": "blob", "modality": "audio", "mime_type": "audio/wav", "size_bytes": 3},
                {"type": "file", "modality": "document", "file_id": "file-1"},
            ],
        },
        {"role": "assistant", "parts": [ASKED_TOOL | {"id": "c1"}, {"type": "text", "content": "no"}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "done"}]},
    ]


def test_items_of_a_response_are_read_one_by_one(capturing, ask, spans):
    capturing()
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c1", "name": "refund", "arguments": '{"order_id": "o-1"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "done"},
    ]
    ask.responses.create(model="gpt-5", input=items, user="say")

    assert on_span(spans)["input.messages"] == [
        *HI,
        {"role": "assistant", "parts": [{"type": "reasoning", "content": "hm"}]},
        {"role": "assistant", "parts": [ASKED_TOOL | {"id": "c1"}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "done"}]},
    ]


def test_blocks_of_claudes_conversation_are_read_one_by_one(capturing, ask_claude, spans):
    capturing()
    source = {"type": "base64", "media_type": "image/png", "data": "A" * 400}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image", "source": source}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "t1", "name": "refund", "input": {"order_id": "o-1"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "done"}]},
                {"type": "text", "text": "and?"},
            ],
        },
        {"role": "user", "content": "say"},
    ]
    ask_claude.messages.create(**claude(messages=messages))

    blob = {"type": "blob", "modality": "image", "mime_type": "image/png", "size_bytes": 300}
    done = [{"type": "text", "content": "done"}]
    assert on_span(spans)["input.messages"] == [
        {"role": "user", "parts": [{"type": "text", "content": "hi"}, blob]},
        {"role": "assistant", "parts": [{"type": "reasoning", "content": "hm"}, ASKED_TOOL | {"id": "t1"}]},
        {
            "role": "user",
            "parts": [
                {"type": "tool_call_response", "id": "t1", "response": done},
                {"type": "text", "content": "and?"},
            ],
        },
        {"role": "user", "parts": [{"type": "text", "content": "say"}]},
    ]


def test_an_answer_that_the_client_gave_can_be_given_back_as_it_is(capturing, ask, ask_claude, spans):
    capturing()
    answer = ask.chat.completions.create(**chat("tool")).choices[0].message
    ask.chat.completions.create(**chat(messages=[answer, {"role": "tool", "tool_call_id": "x", "content": "done"}]))
    block = ask_claude.messages.create(**claude("tool", tools=[TOOL])).content
    ask_claude.messages.create(
        **claude(messages=[{"role": "assistant", "content": block}, {"role": "user", "content": "say"}])
    )

    for span in (spans.all()[1], spans.all()[3]):
        said_first = json.loads(span.attributes["gen_ai.input.messages"])[0]["parts"][0]
        assert said_first["type"] == "tool_call"
        assert said_first["arguments"] == {"order_id": "o-1"}


# --- what may be seen


def test_a_tools_redaction_holds_for_what_models_say_of_it(capturing, ask, spans):
    capturing(rules=[spanledger.Rule("refund", redact=["order_id"])])
    list(ask.chat.completions.create(**chat("tool", stream=True)))

    (message,) = on_span(spans)["output.messages"]
    assert message["parts"][0]["arguments"] == {"order_id": "[redacted]"}


def test_what_others_write_on_the_span_of_a_call_is_without_what_its_rule_redacts(
    capturing, ask, spans, dsn, monkeypatch
):
    secret, post = "hunter2", openai.OpenAI.post
    tracer = trace.get_tracer("openinference.instrumentation.openai")

    def written(*args: Any, **kwargs: Any) -> Any:
        told = {"llm.input_messages.0.message.content": json.dumps({"password": secret}), "llm.model_name": "seen"}
        with tracer.start_as_current_span("theirs", attributes=told) as span:
            span.set_attribute("output.value", f"the password is {secret}")
            trace.get_current_span().record_exception(ValueError(secret))
            return post(*args, **kwargs)

    monkeypatch.setattr(openai.OpenAI, "post", written)
    capturing("no_content", dsn=dsn, rules=[spanledger.Rule("gpt-5", redact=["password"])])
    with spanledger.workflow("w"):
        ask.chat.completions.create(**chat())

    span = spans.one("chat gpt-5")
    assert span.attributes["llm.model_name"] == "seen"
    assert secret not in span.to_json()


# --- how much


def test_long_texts_are_cut_and_long_conversations_keep_their_end(capturing, ask, spans):
    capturing()
    long, many = "x" * (said.TEXT_CHARS_MAX + 5), [{"role": "user", "content": "y" * 10_000}] * 20
    ask.chat.completions.create(**chat(messages=[*many, {"role": "user", "content": long}]))

    (span,) = spans.all()
    text = span.attributes["gen_ai.input.messages"]
    kept = json.loads(text)
    assert len(text.encode()) <= said.MESSAGES_BYTES_MAX
    assert 5 < len(kept) < 20
    assert kept[-1]["parts"][0]["content"] == "x" * said.TEXT_CHARS_MAX + "… [5 more characters]"
    assert span.attributes["spanledger.messages.cut"] == ("gen_ai.input.messages",)


def test_of_one_message_that_is_too_long_its_beginning_is_kept():
    parts = [{"type": "text", "content": "z" * 10_000}] * 20
    kept, cut = said.fitting([{"role": "user", "parts": parts}])

    assert cut
    assert 5 < len(kept[0]["parts"]) < 20
    assert said.fitting([]) == ([], False)
    assert said.fitting([{"type": "function", "name": "x" * 10}])[1] is False
    assert said.fitting([{"type": "function", "parameters": ["x" * 9_000] * 20}]) == ([], True)


def test_of_a_stream_without_end_the_beginning_is_read():
    pieces = reading.Pieces()
    for _ in range(3):
        pieces.add("x" * reading.GATHERED_CHARS_MAX)
    pieces.add(None)

    assert str(pieces).startswith("x" * reading.GATHERED_CHARS_MAX + "…")
    assert str(pieces).endswith(f"[{2 * reading.GATHERED_CHARS_MAX} more characters]")


# --- garbage


class Hostile:
    """What cannot even be looked at."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"hidden {name}")


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
GARBAGE = [
    [None, 7, "text", [], {}],
    [{"role": 7, "content": 7}, {"role": "tool", "content": {"a": float("nan"), "b": b"xx", "c": object()}}],
    [{"role": "user", "content": [None, 7, {"type": "image_url", "image_url": 7}, {"type": "unheard"}, {"type": []}]}],
    [{"role": "assistant", "tool_calls": [None, {"function": 7}, {"function": {"arguments": "{no"}}], "content": None}],
    [{"role": "tool", "tool_call_id": [], "content": CIRCLE}],
    [{"role": "user", "content": "half a pair \ud800"}],
    [Hostile()],
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("rules", [(), [spanledger.Rule("refund", redact=["password"])]], ids=["plain", "redacting"])
def test_garbage_in_messages_is_the_clients_business(garbage, rules, capturing, ask, ask_claude, spans, caplog):
    capturing("span_and_event", rules=rules)
    calls = (
        lambda: ask.chat.completions.create(**chat(messages=garbage)),
        lambda: ask.responses.create(model="gpt-5", input=garbage, tools=garbage, user="say"),
        lambda: ask_claude.messages.create(**claude(messages=garbage, tools=garbage)),
    )
    raised = [what_it_raises(call) for call in calls]
    spanledger.uninstrument()

    assert raised == [what_it_raises(call) for call in calls]
    assert "hidden" not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("spanl"))
    for span in spans.all():
        for name in NAMES:
            text = span.attributes.get(f"gen_ai.{name}", "[]")
            assert isinstance(json.loads(text), list)
            text.encode()


def what_it_raises(call: Callable[[], Any]) -> str | None:
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return None


@pytest.mark.parametrize("chunk", [None, 7, {}, {"choices": [None]}, {"type": "content_block_delta"}])
def test_garbage_in_streams_is_left_out(chunk):
    from spanledger.instrument.libraries import anthropic as claude_library
    from spanledger.instrument.libraries import openai as openai_library

    shapes = {wrap.messages for library in (claude_library, openai_library) for wrap in library.LIBRARY.wraps}
    for shape in shapes - {None}:
        gathered: dict[str, Any] = {}
        shape.gather(gathered, chunk)
        assert isinstance(shape.answered(gathered), list)


def test_what_cannot_be_read_is_told_without_its_words(capturing, ask, spans, caplog):
    capturing()
    with caplog.at_level(logging.WARNING, "spanledger"), pytest.raises(TypeError, match="Hostile"):
        ask.chat.completions.create(**chat(messages=[Hostile()]))

    assert "a request of a model call cannot be recorded: RuntimeError" in caplog.text
