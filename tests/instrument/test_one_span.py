"""One call to a provider is one span, whoever else is installed that makes spans of it, and whoever came first.

Each case runs in a process of its own; those of instrumentations that are not installed are skipped:
`python -m tests.others` installs them all in an environment of its own and runs these tests there.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import textwrap

import pytest

from spanledger.testing import Counted, ModelServer, Say

USED = Counted(1000, 50, cached_tokens=200)
OTHERS = {
    "official openai": ("opentelemetry.instrumentation.genai.openai", "OpenAIInstrumentor"),
    "official anthropic": ("opentelemetry.instrumentation.genai.anthropic", "AnthropicInstrumentor"),
    "traceloop openai": ("opentelemetry.instrumentation.openai", "OpenAIInstrumentor"),
    "openinference openai": ("openinference.instrumentation.openai", "OpenAIInstrumentor"),
    "traceloop anthropic": ("opentelemetry.instrumentation.anthropic", "AnthropicInstrumentor"),
    "openinference anthropic": ("openinference.instrumentation.anthropic", "AnthropicInstrumentor"),
    "official langchain": ("opentelemetry.instrumentation.genai.langchain", "LangChainInstrumentor"),
    "traceloop langchain": ("opentelemetry.instrumentation.langchain", "LangchainInstrumentor"),
    "openinference langchain": ("openinference.instrumentation.langchain", "LangChainInstrumentor"),
}
PROGRAM = """
    import asyncio, contextlib, importlib, json, sys
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    import spanledger
    from spanledger import Config

    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    metrics.set_meter_provider(MeterProvider([reader]))
    url, module, cls, order, library = sys.argv[1:]

    def ours():
        libraries = ["openai", "langchain"] if library == "langchain" else [library]
        spanledger.instrument(Config(dsn="host=/nowhere"), libraries=libraries)

    def theirs():
        getattr(importlib.import_module(module), cls)().instrument()

    for instrument in (ours, theirs) if order == "ours first" else (theirs, ours):
        instrument()
    messages = [{"role": "user", "content": "hi"}]
    if library == "openai":
        import openai
        client = openai.OpenAI(base_url=url + "/v1", api_key="offline")
        ask = dict(model="gpt-5", messages=messages)
        client.chat.completions.create(**ask)
        for _ in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
            pass
        client.responses.create(model="gpt-5", input="hi")
        for _ in client.responses.create(model="gpt-5", input="hi", stream=True):
            pass
        client.chat.completions.with_raw_response.create(**ask).parse()
        CALLS = 5

        async def awaiting():
            async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="offline") as client:
                await client.chat.completions.create(**ask)
                async for _ in await client.chat.completions.create(
                    **ask, stream=True, stream_options={"include_usage": True}
                ):
                    pass
                await client.responses.create(model="gpt-5", input="hi")
    elif library == "langchain":
        from langchain_openai import ChatOpenAI
        client = contextlib.ExitStack()
        ask = dict(model="gpt-5", base_url=url + "/v1", api_key="offline")
        models = [ChatOpenAI(**ask, use_responses_api=other) for other in (False, True)]
        for model in models:
            model.invoke("hi")
            list(model.stream("hi"))
            model.batch(["hi", "hi"])
        CALLS = 13

        async def awaiting():
            for model in models:
                await model.ainvoke("hi")
                async for _ in model.astream("hi"):
                    pass
                await model.abatch(["hi", "hi"])
    else:
        import anthropic
        client = anthropic.Anthropic(base_url=url, api_key="offline")
        ask = dict(model="claude-haiku-4-5", max_tokens=100, messages=messages)
        client.messages.create(**ask)
        with client.messages.stream(**ask) as stream:
            stream.get_final_message()
        for _ in client.messages.create(**ask, stream=True):
            pass
        client.beta.messages.create(**ask)
        with client.beta.messages.stream(**ask) as stream:
            stream.get_final_message()
        CALLS = 5

        async def awaiting():
            async with anthropic.AsyncAnthropic(base_url=url, api_key="offline") as client:
                await client.messages.create(**ask)
                async with client.messages.stream(**ask) as stream:
                    await stream.get_final_message()
                async for _ in await client.messages.create(**ask, stream=True):
                    pass
    asyncio.run(awaiting())
    client.close()
    tokens = 0
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name == "gen_ai.client.token.usage":
                    tokens += sum(getattr(p, "sum", getattr(p, "value", 0)) for p in metric.data.data_points)
    spans = [(s.name, dict(s.attributes)) for s in exporter.get_finished_spans() if s.kind.name != "SERVER"]
    print(json.dumps({"spans": spans, "tokens": tokens, "calls": CALLS + 3}, default=str))
"""


@pytest.mark.parametrize("order", ["ours first", "theirs first"])
@pytest.mark.parametrize("other", OTHERS)
def test_a_call_is_one_span_and_its_tokens_count_once(other, order):
    module, cls = OTHERS[other]
    library = other.rpartition(" ")[2]
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip(f"{module} is not installed")
    with ModelServer(lambda request: Say("one two three", used=USED)) as model:
        command = [sys.executable, "-c", textwrap.dedent(PROGRAM), model.anthropic_url, module, cls, order, library]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert len(seen["spans"]) == seen["calls"], [name for name, _ in seen["spans"]]
    for _, attributes in seen["spans"]:
        assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (1000, 50)
        assert attributes["gen_ai.operation.name"] == "chat"
    assert seen["tokens"] == seen["calls"] * 1050
    assert "Setting attribute on ended span" not in done.stderr
