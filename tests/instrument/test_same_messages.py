"""What is recorded of messages is what OpenTelemetry's own instrumentations record of them, but for what is binary.

It runs where these are installed, as in the environment of `python -m tests.others`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from spanledger.testing import CallTool, ModelServer, Say

NAMES = ("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions", "gen_ai.tool.definitions")
PROGRAM = """
    import json, sys
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    url, who = sys.argv[1:]
    if who == "ours":
        import spanledger
        config = spanledger.Config(dsn="host=/nowhere", capture_content="span_only")
        spanledger.instrument(config, libraries=["openai", "anthropic"])
    else:
        from opentelemetry.instrumentation.genai.anthropic import AnthropicInstrumentor
        from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
        OpenAIInstrumentor().instrument()
        AnthropicInstrumentor().instrument()
    import anthropic, openai

    arguments = '{"order_id": "o-1"}'
    function = {"name": "refund", "description": "x", "parameters": {"type": "object"}}
    tools = [{"type": "function", "function": function}]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400}}
    link = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    called = {"id": "c1", "type": "function", "function": {"name": "refund", "arguments": arguments}}
    chat = dict(model="gpt-5", tools=tools, messages=[
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "look"}, image, link]},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
    ])
    response = dict(model="gpt-5", instructions="be brief", tools=[{"type": "function", **function}], input=[
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c1", "name": "refund", "arguments": arguments},
        {"type": "function_call_output", "call_id": "c1", "output": "done"},
    ])
    use = {"type": "tool_use", "id": "t1", "name": "refund", "input": {"order_id": "o-1"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "done"}
    tool = {"name": "refund", "description": "x", "input_schema": {"type": "object", "properties": {}}}
    message = dict(model="claude-haiku-4-5", max_tokens=9, system="be brief", tools=[tool], messages=[
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},
    ])
    client = openai.OpenAI(base_url=url + "/v1", api_key="offline")
    claude = anthropic.Anthropic(base_url=url, api_key="offline")
    for user in ("say", "tool"):
        for create, asked in ((client.chat.completions.create, chat), (client.responses.create, response)):
            create(**asked, user=user)
            for _ in create(**asked, user=user, stream=True):
                pass
    claude.messages.create(**message)
    for _ in claude.messages.create(**message, stream=True):
        pass
    print(json.dumps([dict(span.attributes) for span in exporter.get_finished_spans()], default=str))
"""


def script(request: dict) -> Say | CallTool:
    return Say("one two three") if request.get("user") == "say" else CallTool("refund", {"order_id": "o-1"})


def test_messages_are_recorded_as_opentelemetrys_own_instrumentations_record_them():
    pytest.importorskip("opentelemetry.instrumentation.genai.openai")
    pytest.importorskip("opentelemetry.instrumentation.genai.anthropic")

    theirs, ours = recorded("theirs"), recorded("ours")
    assert len(theirs) == 10
    assert ours == theirs


def recorded(who: str) -> list[dict[str, object]]:
    with ModelServer(script) as model:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), model.anthropic_url, who],
            env=os.environ | {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    # A client makes spans of its own, without messages.
    spans = [span for span in json.loads(done.stdout) if NAMES[0] in span]
    return [{name: plain(json.loads(span[name])) for name in NAMES if name in span} for span in spans]


def plain(tree: object) -> object:
    """Without what says nothing, what is made anew by every answer, and the content of what is binary."""
    if isinstance(tree, list):
        return [plain(item) for item in tree]
    if isinstance(tree, dict):
        left_out = ("content", "size_bytes") if tree.get("type") == "blob" else ()
        return {key: plain(item) for key, item in tree.items() if item is not None and key not in left_out}
    return "an id" if isinstance(tree, str) and tree.startswith(("call_", "toolu_")) else tree
