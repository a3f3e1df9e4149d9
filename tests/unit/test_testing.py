"""The loopback servers, driven by the real clients of what they stand for."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

import spanledger.testing
from spanledger.testing import (
    CallTool,
    Fail,
    ModelServer,
    OtlpGrpcReceiver,
    OtlpReceiver,
    PaymentProvider,
    Refund,
    Say,
    call_tool_once,
)

ASK = [{"role": "user", "content": "refund 10.00 EUR for o-123"}]
REFUND = CallTool("refund", {"order_id": "o-123", "amount": "10.00"})


def client(server: ModelServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="offline", max_retries=0)


def ask(script: Callable[[dict[str, Any]], Any], **options: Any) -> Any:
    with ModelServer(script) as server, client(server) as model:
        return model.chat.completions.create(model="gpt-5-mini", messages=ASK, **options)


def streamed(script: Callable[[dict[str, Any]], Any], **options: Any) -> list[Any]:
    with ModelServer(script) as server, client(server) as model:
        return list(model.chat.completions.create(model="gpt-5-mini", messages=ASK, stream=True, **options))


def assembled(chunks: list[Any]) -> list[dict[str, Any]]:
    calls: dict[int, dict[str, Any]] = {}
    for piece in (p for c in chunks for choice in c.choices for p in choice.delta.tool_calls or ()):
        if piece.id is not None:
            calls[piece.index] = {"id": piece.id, "name": piece.function.name, "arguments": ""}
        calls[piece.index]["arguments"] += piece.function.arguments
    return [calls[index] for index in sorted(calls)]


# The model


def test_a_model_says_what_the_script_says() -> None:
    answer = ask(lambda _: Say("hello there"))
    assert answer.choices[0].message.content == "hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "gpt-5-mini-2025-08-07"
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint.startswith("fp_")
    assert answer._request_id.startswith("req_")


def test_a_dated_model_name_comes_back_as_it_was() -> None:
    with ModelServer(lambda _: Say("x")) as server, client(server) as model:
        answer = model.chat.completions.create(model="gpt-4o-2024-08-06", messages=ASK)
    assert answer.model == "gpt-4o-2024-08-06"


def test_usage_is_the_same_for_the_same_text_and_adds_up() -> None:
    first, second = (ask(lambda _: Say("x" * 40)).usage for _ in range(2))
    assert first == second
    assert first.completion_tokens == 10
    assert first.total_tokens == first.prompt_tokens + first.completion_tokens
    assert first.prompt_tokens_details.cached_tokens == 0


def test_a_long_prompt_is_partly_cached() -> None:
    with ModelServer(lambda _: Say("x")) as server, client(server) as model:
        long = [{"role": "user", "content": "x" * 8000}]
        usage = model.chat.completions.create(model="m", messages=long).usage
    assert 1024 <= usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens
    assert usage.prompt_tokens_details.cached_tokens % 128 == 0


def test_a_tool_call_has_a_new_id_each_time() -> None:
    calls = [ask(lambda _: REFUND).choices[0].message.tool_calls[0] for _ in range(3)]
    assert len({call.id for call in calls}) == 3
    assert all(call.id.startswith("call_") for call in calls)
    assert json.loads(calls[0].function.arguments) == REFUND.arguments


def test_a_list_asks_for_several_tools_at_once() -> None:
    choice = ask(lambda _: [REFUND, CallTool("mail", {"to": "ä"})]).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert [call.function.name for call in choice.message.tool_calls] == ["refund", "mail"]


def test_a_stream_brings_text_in_pieces_and_no_usage_unless_asked() -> None:
    chunks = streamed(lambda _: Say("one two  three"))
    texts = [chunk.choices[0].delta.content for chunk in chunks]
    assert "".join(text or "" for text in texts) == "one two  three"
    assert len([text for text in texts if text]) == 3
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_stream_ends_with_usage_and_no_choices_if_asked() -> None:
    chunks = streamed(lambda _: Say("one two"), stream_options={"include_usage": True})
    assert chunks[-1].choices == []
    assert chunks[-1].usage == ask(lambda _: Say("one two")).usage
    assert all(chunk.usage is None and chunk.choices for chunk in chunks[:-1])


def test_streamed_tool_calls_come_by_index_in_pieces() -> None:
    chunks = streamed(lambda _: [REFUND, CallTool("mail", {"to": "ä"})])
    calls = assembled(chunks)
    assert [call["name"] for call in calls] == ["refund", "mail"]
    assert [json.loads(call["arguments"]) for call in calls] == [REFUND.arguments, {"to": "ä"}]
    assert len(chunks) > 6
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_stream_helper_of_the_client_assembles_the_answer() -> None:
    with (
        ModelServer(lambda _: REFUND) as server,
        client(server) as model,
        model.chat.completions.stream(model="gpt-5-mini", messages=ASK) as stream,
    ):
        completion = stream.get_final_completion()
    assert json.loads(completion.choices[0].message.tool_calls[0].function.arguments) == REFUND.arguments


def test_an_async_client_gets_whole_and_streamed_answers() -> None:
    async def both(server: ModelServer) -> tuple[str | None, str]:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="offline", max_retries=0) as model:
            whole = await model.chat.completions.create(model="gpt-5-mini", messages=ASK)
            stream = await model.chat.completions.create(model="gpt-5-mini", messages=ASK, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return whole.choices[0].message.content, "".join(pieces)

    with ModelServer(lambda _: Say("one two")) as server:
        assert asyncio.run(both(server)) == ("one two", "one two")


def test_the_server_keeps_the_requests_it_was_sent() -> None:
    with ModelServer(lambda _: Say("x")) as server, client(server) as model:
        model.chat.completions.create(model="gpt-5-mini", messages=ASK, temperature=0)
        assert server.requests == [{"model": "gpt-5-mini", "messages": ASK, "temperature": 0}]
        server.requests.clear()
        assert len(server.requests) == 1


def test_a_script_that_fails_is_an_openai_error_with_its_status_and_message() -> None:
    with pytest.raises(openai.RateLimitError, match="slow down") as caught:
        ask(lambda _: Fail(429, "slow down"), stream=True)
    assert caught.value.request_id.startswith("req_")


def test_a_script_that_raises_is_an_error_of_the_provider() -> None:
    def broken(_: dict[str, Any]) -> Say:
        raise KeyError("boom")

    with pytest.raises(openai.InternalServerError, match="KeyError: 'boom'"):
        ask(broken)


def test_a_script_that_returns_nonsense_is_told_what_to_return() -> None:
    with pytest.raises(openai.InternalServerError, match="a script returns Say, CallTool"):
        ask(lambda _: [])


def test_a_request_without_a_key_is_refused_before_the_script_runs() -> None:
    with ModelServer(lambda _: Say("x")) as server:
        answer = httpx.post(f"{server.url}/chat/completions", json={"model": "m", "messages": ASK})
        assert server.requests == []
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"messages": [{"role": "user"}]}', b'{"model": "m"}'])
def test_a_request_that_is_no_chat_completion_is_refused(body: bytes) -> None:
    headers = {"authorization": "Bearer offline"}
    with ModelServer(lambda _: Say("x")) as server:
        answer = httpx.post(f"{server.url}/chat/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_the_ready_script_asks_for_the_tool_and_then_reports_its_result() -> None:
    script = call_tool_once("refund", lambda text: {"order_id": text.split()[-1]})
    with ModelServer(script) as server, client(server) as model:
        first = model.chat.completions.create(model="m", messages=ASK).choices[0].message
        assert json.loads(first.tool_calls[0].function.arguments) == {"order_id": "o-123"}
        result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "re_1 succeeded"}
        messages = [*ASK, first.model_dump(exclude_none=True), result]
        last = model.chat.completions.create(model="m", messages=messages).choices[0].message
    assert "re_1 succeeded" in last.content
    assert last.tool_calls is None


def test_the_ready_script_asks_back_when_the_arguments_are_not_in_the_text() -> None:
    assert "refund" in ask(call_tool_once("refund", lambda _: None)).choices[0].message.content


# Any of the servers


def test_stopping_does_not_wait_for_a_blocked_answer_nor_for_an_idle_client() -> None:
    asked, release = threading.Event(), threading.Event()

    def block(_: dict[str, Any]) -> Say:
        asked.set()
        release.wait(30)
        return Say("too late")

    failed: list[BaseException] = []

    def call(server: ModelServer) -> None:
        with client(server) as model:
            try:
                model.chat.completions.create(model="m", messages=ASK)
            except openai.APIConnectionError as error:
                failed.append(error)

    with ModelServer(block) as server, socket.create_connection(("127.0.0.1", port_of(server))):
        caller = threading.Thread(target=call, args=(server,))
        caller.start()
        assert asked.wait(10)
        started_s = time.monotonic()
        server.stop()
        assert time.monotonic() - started_s < 5
    caller.join(10)
    release.set()
    assert len(failed) == 1


def test_a_server_that_does_not_run_has_no_address_and_may_be_stopped_twice() -> None:
    server = ModelServer(lambda _: Say("x"))
    server.stop()
    with pytest.raises(RuntimeError, match="`with` block"):
        _ = server.url
    with server:
        first = server.url
        assert server.start().url == first
    server.stop()


def test_a_body_of_unknown_length_is_refused() -> None:
    with PaymentProvider() as provider:
        assert httpx.post(f"{provider.url}/refunds", content=iter([b"{}"])).status_code == 411


def test_importing_the_package_loads_the_standard_library_only() -> None:
    code = (
        "import sys, spanledger\n"
        "before = set(sys.modules)\n"
        "import spanledger.testing\n"
        "loaded = {name.partition('.')[0] for name in sys.modules.keys() - before}\n"
        "sys.exit(bool(loaded - sys.stdlib_module_names - {'spanledger'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=child_environment(), check=False).returncode == 0


def port_of(server: Any) -> int:
    return httpx.URL(server.url).port or 0


# The payment provider


def pay(provider: PaymentProvider, **changed: Any) -> httpx.Response:
    body = {"order_id": "o-123", "amount": "10.00", "currency": "EUR"} | changed
    return httpx.post(f"{provider.url}/refunds", json=body)


def test_the_provider_pays_out_as_often_as_it_is_asked() -> None:
    with PaymentProvider() as provider:
        ids = {pay(provider, reference="r-1").json()["id"] for _ in range(3)}
        assert len(ids) == len(provider.refunds) == 3
        assert {refund.amount for refund in provider.refunds} == {"10.00"}


def test_a_refund_is_recorded_before_the_callback_and_answered_after_it() -> None:
    seen: list[tuple[Refund, int]] = []
    with PaymentProvider(lambda refund: seen.append((refund, len(provider.refunds)))) as provider:
        answer = pay(provider)
    assert answer.status_code == 201
    assert answer.json()["status"] == "succeeded"
    assert seen == [(Refund(answer.json()["id"], "o-123", "10.00", "EUR", None), 1)]


def test_a_callback_that_raises_loses_the_answer_and_not_the_refund() -> None:
    def lose(_: Refund) -> None:
        raise ValueError("lost")

    with PaymentProvider(lose) as provider:
        assert pay(provider).status_code == 500
        assert len(provider.refunds) == 1


def test_refunds_are_found_by_reference_and_by_order() -> None:
    with PaymentProvider() as provider:
        pay(provider, reference="r/1 ä")
        pay(provider, order_id="o-456")
        url = f"{provider.url}/refunds"
        by_reference = httpx.get(url, params={"reference": "r/1 ä"}).json()["refunds"]
        by_order = httpx.get(url, params={"order_id": "o-456"}).json()["refunds"]
        assert [refund["order_id"] for refund in by_reference + by_order] == ["o-123", "o-456"]
        assert httpx.get(url, params={"reference": "other"}).json() == {"refunds": []}
        assert httpx.get(url, params={"refrence": "r-1"}).status_code == 422


@pytest.mark.parametrize(
    "changed",
    [{"amount": 10.0}, {"amount": "-1"}, {"amount": "0.00"}, {"amount": "NaN"}, {"order_id": ""},
     {"currency": "eur"}, {"reference": 7}],
)  # fmt: skip
def test_bad_input_is_refused_and_pays_nothing(changed: dict[str, Any]) -> None:
    with PaymentProvider() as provider:
        answer = pay(provider, **changed)
        assert answer.status_code == 422
        assert next(iter(changed)) in answer.json()["error"]["message"]
        assert provider.refunds == ()


# The telemetry backend


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as running:
        yield running


def export(receiver: OtlpReceiver, compression: Compression = Compression.NoCompression) -> TracerProvider:
    exporter = OTLPSpanExporter(endpoint=f"{receiver.endpoint}/v1/traces", compression=compression)
    provider = TracerProvider(resource=Resource({"service.name": "agent"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_a_span_arrives_as_it_was_made(receiver: OtlpReceiver, compression: Compression) -> None:
    provider = export(receiver, compression)
    tracer = provider.get_tracer("my.scope")
    other = tracer.start_span("other")
    other.end()
    links = [trace.Link(other.get_span_context(), {"why": "replay"})]
    with (
        tracer.start_as_current_span("parent") as parent,
        tracer.start_as_current_span("child", kind=trace.SpanKind.CLIENT, links=links) as child,
    ):
        child.set_attributes({"text": "ä", "count": 3, "part": 0.5, "yes": True, "many": ["a", "b"]})
        child.add_event("chosen", {"option": "card"})
        child.set_status(trace.StatusCode.ERROR, "no money")
    provider.shutdown()

    got = receiver.wait_for(lambda span: span.name == "child")
    context, linked = child.get_span_context(), other.get_span_context()
    assert (got.trace_id, got.span_id) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")
    assert got.parent_span_id == f"{parent.get_span_context().span_id:016x}"
    assert (got.kind, got.status_code, got.status_message) == ("CLIENT", "ERROR", "no money")
    assert got.attributes == {"text": "ä", "count": 3, "part": 0.5, "yes": True, "many": ("a", "b")}
    assert got.events == (("chosen", {"option": "card"}),)
    assert got.links == ((f"{linked.trace_id:032x}", f"{linked.span_id:016x}", {"why": "replay"}),)
    assert got.scope == "my.scope"
    assert got.resource["service.name"] == "agent"
    assert got.start_ns <= got.end_ns


def test_a_root_has_no_parent_and_an_untouched_status_is_unset(receiver: OtlpReceiver) -> None:
    provider = export(receiver)
    provider.get_tracer("t").start_span("root").end()
    provider.shutdown()
    (root,) = receiver.spans
    assert (root.parent_span_id, root.status_code, root.kind) == (None, "UNSET", "INTERNAL")


def test_waiting_sees_a_span_that_arrives_later(receiver: OtlpReceiver) -> None:
    provider = export(receiver)
    looked = threading.Event()

    def is_late(span: spanledger.testing.ReceivedSpan) -> bool:
        looked.set()
        return span.name == "late"

    def send_late() -> None:
        looked.wait(10)
        provider.get_tracer("t").start_span("late").end()

    provider.get_tracer("t").start_span("early").end()
    sender = threading.Thread(target=send_late)
    sender.start()
    assert receiver.wait_for(is_late).name == "late"
    sender.join(10)
    provider.shutdown()


def test_waiting_in_vain_says_which_spans_arrived(receiver: OtlpReceiver) -> None:
    provider = export(receiver)
    provider.get_tracer("t").start_span("here").end()
    provider.shutdown()
    with pytest.raises(TimeoutError, match="arrived: here"):
        receiver.wait_for(lambda _: False, timeout_s=0.01)


def test_logs_and_metrics_are_taken_and_what_is_no_trace_is_refused(receiver: OtlpReceiver) -> None:
    def status(path: str, body: bytes, **headers: str) -> int:
        named = {"content-type": "application/x-protobuf"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return httpx.post(f"{receiver.endpoint}{path}", content=body, headers=named).status_code

    assert status("/v1/logs", b"") == status("/v1/metrics", b"") == status("/v1/traces", b"") == 200
    assert status("/v1/traces", b"\xff") == 400
    assert status("/v1/traces", b"no gzip", content_encoding="gzip") == 400
    assert status("/v1/traces", gzip.compress(b"")[:-4], content_encoding="gzip") == 400
    assert status("/v1/traces", b"", content_encoding="br") == 415
    assert status("/v1/traces", b"{}", content_type="application/json") == 415
    assert status("/v2/traces", b"") == 404
    assert receiver.spans == ()


# The command line

AGENT = """
import json, os, sys, httpx, openai
messages = [{"role": "user", "content": sys.argv[1]}]
with openai.OpenAI() as model:
    message = model.chat.completions.create(model="gpt-5-mini", messages=messages).choices[0].message
arguments = json.loads(message.tool_calls[0].function.arguments)
httpx.post(os.environ["PAYMENTS_URL"] + "/refunds", json=arguments | {"currency": "EUR"}).raise_for_status()
print(arguments)
sys.exit(7)
"""


def child_environment() -> dict[str, str]:
    source = str(Path(spanledger.testing.__file__).parents[2])
    return os.environ | {"PYTHONPATH": source, "PYTHONWARNINGS": "error"}


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "spanledger.testing", *arguments]
    return subprocess.run(line, env=child_environment(), capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("asked", ["refund 10.00 EUR for o-123", "2 chairs of o-123: 10.00 EUR, please"])
def test_the_command_runs_an_agent_offline_and_passes_its_exit_code_on(asked: str) -> None:
    done = command(sys.executable, "-c", AGENT, asked)
    assert done.returncode == 7, done.stderr
    assert done.stdout.strip() == "{'order_id': 'o-123', 'amount': '10.00'}"
    assert done.stderr.strip() == "refunds the payment provider saw: 1"


def test_the_command_says_how_to_use_it_and_what_it_cannot_run() -> None:
    assert command("--help").returncode == 0
    assert "COMMAND" in command().stdout
    assert command("no-such-command-here").returncode == 127
    assert command(sys.executable, "-c", "import os; os.kill(os.getpid(), 9)").returncode == 128 + 9


def test_an_interrupt_reaches_the_agent_and_its_exit_code_comes_back() -> None:
    agent = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(5))\n"
        "print('ready', flush=True)\n"
        "signal.pause()"
    )
    line = [sys.executable, "-m", "spanledger.testing", sys.executable, "-c", agent]
    # A session of its own: without a terminal, as under a process manager.
    with subprocess.Popen(
        line, env=child_environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline().strip() == "ready"
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 5


def test_spans_arrive_by_grpc_as_by_http() -> None:
    with OtlpGrpcReceiver() as receiver:
        provider = TracerProvider(resource=Resource({"service.name": "agent"}), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(GrpcSpanExporter(endpoint=receiver.endpoint, insecure=True)))
        with provider.get_tracer("my.scope").start_as_current_span("hello", attributes={"n": 1}):
            pass
        span = receiver.wait_for(lambda span: span.name == "hello")
        provider.shutdown()

    assert (span.scope, span.attributes, span.resource["service.name"]) == ("my.scope", {"n": 1}, "agent")
