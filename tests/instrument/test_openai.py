"""The OpenAI client, against a server that speaks its protocol: traced, and otherwise as it was."""

from __future__ import annotations

import json
import operator
import subprocess
import sys
import textwrap

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletion
from openai_world import ASK, SECRET, SPAN
from opentelemetry.trace import SpanKind, StatusCode

import spanledger
from spanledger import workflow
from spanledger.testing import ModelServer, Raw

# --- spans


@pytest.mark.usefixtures("instrumented_client")
def test_a_completion_is_a_span_with_what_was_asked_and_used(client, model, spans):
    answer = client.chat.completions.create(**ASK, temperature=0.5, max_completion_tokens=20, top_p=1)
    assert type(answer) is ChatCompletion
    span = spans.one(SPAN)
    assert span.kind is SpanKind.CLIENT
    host, _, port = model.url.removeprefix("http://").removesuffix("/v1").partition(":")
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 20,
        "gen_ai.request.top_p": 1,
        "gen_ai.response.model": answer.model,
        "gen_ai.response.id": answer.id,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": answer.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": answer.usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "server.address": host,
        "server.port": int(port),
    }
    assert {name: span.attributes[name] for name in expected} == expected
    assert span.status.status_code is StatusCode.UNSET
    assert answer.model != "gpt-5"


@pytest.mark.usefixtures("instrumented_client")
def test_an_awaited_completion_is_a_span_too(awaited, spans):
    answer = awaited(lambda client: client.chat.completions.create(**ASK))
    assert type(answer) is ChatCompletion
    assert spans.one(SPAN).attributes["gen_ai.response.id"] == answer.id


@pytest.mark.usefixtures("instrumented_client")
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_without_what_was_said_tells_its_tokens(stream, spans):
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    answer = {"id": "c-1", "model": "gpt-5", "choices": [{"index": 0, "finish_reason": "stop"}], "usage": usage}
    body = json.dumps(answer).encode()
    said = Raw(b"data: " + body + b"\n\ndata: [DONE]\n\n") if stream else Raw(body, "application/json")
    with ModelServer(lambda _request: said) as model:
        client = openai.OpenAI(base_url=model.url, api_key="offline", max_retries=0)
        given = client.chat.completions.create(**ASK, stream=stream)
        assert len([*given]) == 1 if stream else given.id == "c-1"
    attributes = spans.one(SPAN).attributes
    assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (3, 4)


@pytest.mark.usefixtures("instrumented_client")
def test_a_tool_call_is_its_finish_reason(client, spans):
    client.chat.completions.create(**ASK, user="tool")
    assert spans.one(SPAN).attributes["gen_ai.response.finish_reasons"] == ("tool_calls",)


class Number(pydantic.BaseModel):
    n: int


@pytest.mark.usefixtures("instrumented_client")
def test_a_parsed_completion_is_one_span(client, awaited, spans):
    parsed = client.chat.completions.parse(**ASK, user="json", response_format=Number)
    assert parsed.choices[0].message.parsed == Number(n=7)
    assert spans.one(SPAN).attributes["gen_ai.response.id"] == parsed.id
    parsed = awaited(lambda client: client.chat.completions.parse(**ASK, user="json", response_format=Number))
    assert parsed.choices[0].message.parsed == Number(n=7)
    assert len(spans.all(SPAN)) == 2


@pytest.mark.usefixtures("instrumented_client")
def test_the_helper_for_streams_is_one_span(client, spans):
    with client.chat.completions.stream(**ASK) as stream:
        assert stream.get_final_completion().choices[0].message.content == "one two three"
    assert spans.one(SPAN).attributes["gen_ai.usage.output_tokens"] > 0


@pytest.mark.usefixtures("instrumented_client")
def test_nothing_that_was_said_is_on_a_span(client, spans):
    client.chat.completions.create(**ASK)
    list(client.chat.completions.create(**ASK, stream=True))
    assert len(spans.all(SPAN)) == 2
    written = "".join(span.to_json() for span in spans.all())
    assert SECRET not in written
    assert "three" not in written


@pytest.mark.usefixtures("instrumented_client")
def test_the_span_is_a_child_of_the_workflow_around_it(client, spans):
    with workflow("w"):
        client.chat.completions.create(**ASK)
    assert spans.one(SPAN).parent.span_id == spans.one("invoke_agent").context.span_id


# --- errors


@pytest.mark.usefixtures("instrumented_client")
@pytest.mark.parametrize("more", [{}, {"stream": True}])
def test_an_error_of_the_provider_passes_through_and_is_on_the_span(more, client, awaited, spans):
    with pytest.raises(openai.RateLimitError, match="slow down") as caught:
        client.chat.completions.create(**ASK, **more, user="busy")
    assert caught.value.status_code == 429
    with pytest.raises(openai.RateLimitError, match="slow down"):
        awaited(lambda client: client.chat.completions.create(**ASK, **more, user="busy"))
    for span in spans.all(SPAN):
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == "openai.RateLimitError"
    assert len(spans.all(SPAN)) == 2


@pytest.mark.usefixtures("instrumented_client")
def test_a_call_the_client_itself_refuses_fails_as_without_us(client):
    with pytest.raises(TypeError, match="Missing required arguments"):
        client.chat.completions.create(messages=[])


# --- putting it on and taking it off


def test_uninstrument_puts_back_the_very_functions(instrument_client):
    def functions() -> list[object]:
        classes = (openai.resources.chat.Completions, openai.resources.chat.AsyncCompletions)
        return [vars(cls)[name] for cls in classes for name in ("create", "parse")]

    before = functions()
    instrument_client()
    instrument_client()
    assert not any(map(operator.is_, functions(), before))
    spanledger.uninstrument()
    assert all(map(operator.is_, functions(), before))


def test_instrumented_twice_a_call_is_one_span(instrument_client, client, spans):
    instrument_client()
    instrument_client()
    client.chat.completions.create(**ASK)
    spans.one(SPAN)


def test_uninstrumented_a_call_is_no_span(instrument_client, client, spans):
    instrument_client()
    spanledger.uninstrument()
    client.chat.completions.create(**ASK)
    assert spans.all() == []


PROGRAM = """
    import sys
    {before}
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    import spanledger
    from spanledger import Config

    exporter = InMemorySpanExporter()
    trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    report = spanledger.instrument(Config(dsn="host=/nowhere"))
    assert "openai" in report.attached, report
    {after}
    client = openai.OpenAI(base_url=sys.argv[1], api_key="offline")
    client.chat.completions.create(model="gpt-5", messages=[{{"role": "user", "content": "hi"}}])
    print([span.name for span in exporter.get_finished_spans()])
"""


@pytest.mark.parametrize("where", ["before", "after"])
def test_it_does_not_matter_whether_the_library_was_imported_first(where, model):
    check = "assert 'openai' not in sys.modules"
    places = {"before": ("import openai", ""), "after": ("", f"{check}\n    import openai")}[where]
    program = textwrap.dedent(PROGRAM.format(before=places[0], after=places[1]))
    done = subprocess.run([sys.executable, "-c", program, model.url], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("['chat gpt-5']", 0), done.stderr
