"""What a traced model call costs: CPU added to a call of the OpenAI client, ours beside a span written by hand.

    python -m tests.benchmarks.model_calls [--rounds N] [--only NAME]

Rules: no network: the client's transport answers at once. Each contender runs in a process of its own, where blocks of
calls with it and without it alternate and the median of the differences of neighbours counts; CPU time of the calling
thread, so that waiting and other processes do not count. By hand means a span with the very attributes that ours has.
The price of a chunk is the slope between short and long streams. Others are measured where they are installed. No
ledger is asked: nothing here has a budget, and a private server that nobody uses is not asked for controls. Whatever
holds for one machine are ratios; absolute figures do not.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx2
import openai
from openai.resources.chat.completions import Completions
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

import spanledger
from spanledger import Config

ASK: dict[str, Any] = {"model": "gpt-5", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.5}
BLOCK_CALLS, STREAM_BLOCK_CALLS = 40, 8
SHORT_CHUNKS, LONG_CHUNKS = 20, 220
PLAIN_RATIO_MAX, CHUNK_US_MAX = 1.5, 5.0
# Where contenders put what they add.
PLACES = ((Completions, "create"), (openai.OpenAI, "request"), (openai.OpenAI, "post"))
OTHERS = {
    "official": ("opentelemetry.instrumentation.genai.openai", "OpenAIInstrumentor"),
    "traceloop": ("opentelemetry.instrumentation.openai", "OpenAIInstrumentor"),
    "openinference": ("openinference.instrumentation.openai", "OpenAIInstrumentor"),
}
CONTENDERS = ("nothing", "by hand", "spanledger", *OTHERS)


class Nowhere(SpanExporter):
    """Exports to nobody, and remembers the last one."""

    last: ReadableSpan

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Take them."""
        self.last = spans[-1]
        return SpanExportResult.SUCCESS


EXPORTER = Nowhere()


# --- the world: a provider that answers at once


def completion() -> bytes:
    message = {"role": "assistant", "content": "one two three", "refusal": None}
    return json.dumps(envelope("chat.completion") | {
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}], "usage": usage(),
    }).encode()  # fmt: skip


def stream(chunks: int, *, with_usage: bool) -> bytes:
    def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
        return line(envelope("chat.completion.chunk") | {"choices": choices})

    def line(data: dict[str, Any]) -> bytes:
        return b"data: " + json.dumps(data).encode() + b"\n\n"

    last = [line(envelope("chat.completion.chunk") | {"choices": [], "usage": usage()})] if with_usage else []
    return b"".join(
        [*(chunk({"content": "word "}) for _ in range(chunks)), chunk({}, "stop"), *last, b"data: [DONE]\n\n"]
    )


def envelope(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "gpt-5-2025-08-07"}


def usage() -> dict[str, Any]:
    return {
        "prompt_tokens": 812, "completion_tokens": 64, "total_tokens": 876,
        "prompt_tokens_details": {"cached_tokens": 512, "cache_write_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip


def client() -> openai.OpenAI:
    whole = completion()
    streams = {(n, usage): stream(n, with_usage=usage) for n in (SHORT_CHUNKS, LONG_CHUNKS) for usage in (True, False)}

    def answer(request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        if not body.get("stream"):
            return httpx2.Response(200, content=whole, headers={"content-type": "application/json"})
        key = int(body["user"]), bool((body.get("stream_options") or {}).get("include_usage"))
        return httpx2.Response(200, content=streams[key], headers={"content-type": "text/event-stream"})

    transport = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(api_key="offline", base_url="http://provider/v1", http_client=transport, max_retries=0)


# --- contenders: what puts them in place


def nothing() -> None:
    """For the noise of the measurement itself."""


def spanledgers() -> None:
    spanledger.instrument(Config(), libraries=["openai"])


def by_hand() -> None:
    """A span with the attributes of ours, as somebody would write it."""
    attributes = attributes_of_ours()
    asked = {name: value for name, value in attributes.items() if ".request." in name or "usage" not in name}
    asked = {name: value for name, value in asked.items() if not name.startswith(("gen_ai.response.", "spanledger."))}
    cost = attributes.get("spanledger.cost", ())
    create, tracer = Completions.create, trace.get_tracer("by hand")

    def traced(self: Completions, **kwargs: Any) -> Any:
        with tracer.start_as_current_span("chat gpt-5", kind=trace.SpanKind.CLIENT, attributes=asked) as span:
            answer = create(self, **kwargs)
            if kwargs.get("stream"):
                return answer
            reported = answer.usage
            span.set_attributes({
                "gen_ai.response.model": answer.model,
                "gen_ai.response.id": answer.id,
                "gen_ai.response.finish_reasons": [choice.finish_reason for choice in answer.choices],
                "gen_ai.usage.input_tokens": reported.prompt_tokens,
                "gen_ai.usage.output_tokens": reported.completion_tokens,
                "gen_ai.usage.cache_read.input_tokens": reported.prompt_tokens_details.cached_tokens,
                "gen_ai.usage.cache_write.input_tokens": 0,
                "gen_ai.usage.reasoning.output_tokens": reported.completion_tokens_details.reasoning_tokens,
                "spanledger.cost": cost,
            })  # fmt: skip
            return answer

    Completions.create = traced  # type: ignore[assignment, method-assign]


def attributes_of_ours() -> dict[str, Any]:
    """Ask once with ours in place, to see what its span says."""
    spanledgers()
    with client() as asking:
        asking.chat.completions.create(**ASK)
    spanledger.uninstrument()
    # By the exporter that is there anyway: no second one, of which by hand would cost more than ours.
    trace.get_tracer_provider().force_flush()  # type: ignore[attr-defined]
    return dict(EXPORTER.last.attributes or {})


def other(name: str) -> Callable[[], None]:
    module, cls = OTHERS[name]
    return lambda: getattr(importlib.import_module(module), cls)().instrument()


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor is the package around it
        return False


# --- measuring


@contextlib.contextmanager
def switched(put: Callable[[], None]) -> Iterator[Callable[[bool], None]]:
    """Put a contender in place, and give what switches it on and off: whoever cannot be taken away as well."""
    before = {place: vars(place[0]).get(place[1]) for place in PLACES}
    put()
    after = {place: vars(place[0]).get(place[1]) for place in PLACES}

    def switch(on: bool) -> None:
        for (owner, name), value in (after if on else before).items():
            if value is not None:
                setattr(owner, name, value)
            elif name in vars(owner):
                delattr(owner, name)

    yield switch
    switch(False)


def block_us(call: Callable[[], Any], calls: int) -> float:
    started = time.thread_time_ns()
    for _ in range(calls):
        call()
    return (time.thread_time_ns() - started) / 1000 / calls


def added_us(switch: Callable[[bool], None], call: Callable[[], Any], calls: int, rounds: int) -> float:
    """Say what a contender adds to a call."""
    for on in (True, False):
        switch(on)
        block_us(call, calls)
    differences = []
    gc.collect()
    gc.disable()
    for number in range(rounds):
        order = (False, True) if number % 2 else (True, False)
        times = {}
        for on in order:
            switch(on)
            times[on] = block_us(call, calls)
        differences.append(times[True] - times[False])
    gc.enable()
    return statistics.median(differences)


def measured(name: str, rounds: int) -> dict[str, float]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(EXPORTER))
    trace.set_tracer_provider(provider)
    puts = {"nothing": nothing, "by hand": by_hand, "spanledger": spanledgers}
    asking = client()
    asking.chat.completions.create(**ASK)

    def drain(chunks: int) -> Callable[[], Any]:
        return lambda: sum(1 for _ in asking.chat.completions.create(**ASK, stream=True, user=str(chunks)))

    with switched(puts.get(name) or other(name)) as switch:
        plain = added_us(switch, lambda: asking.chat.completions.create(**ASK), BLOCK_CALLS, rounds)
        short = added_us(switch, drain(SHORT_CHUNKS), STREAM_BLOCK_CALLS, rounds)
        long = added_us(switch, drain(LONG_CHUNKS), STREAM_BLOCK_CALLS, rounds)
    return {"plain_us": plain, "stream_us": short, "chunk_us": (long - short) / (LONG_CHUNKS - SHORT_CHUNKS)}


def main(argv: list[str]) -> int:
    options = argparse.ArgumentParser(prog="python -m tests.benchmarks.model_calls")
    options.add_argument("--rounds", type=int, default=60)
    options.add_argument("--only", choices=CONTENDERS)
    options.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    given = options.parse_args(argv)
    if given.child:
        print(json.dumps(measured(given.child, given.rounds)))
        return 0
    rows: dict[str, dict[str, float]] = {}
    print(f"{'CPU added, in µs':24}{'plain call':>12}{'short stream':>14}{'a chunk':>10}")
    for name in [given.only] if given.only else CONTENDERS:
        if name in OTHERS and not is_installed(OTHERS[name][0]):
            print(f"{name:24}not installed")
            continue
        command = [sys.executable, "-m", __spec__.name, "--child", name, "--rounds", str(given.rounds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name:24}failed: {(done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]}")
            continue
        rows[name] = json.loads(done.stdout.splitlines()[-1])
        row = rows[name]
        print(f"{name:24}{row['plain_us']:12.1f}{row['stream_us']:14.1f}{row['chunk_us']:10.2f}")
    if "spanledger" not in rows or "by hand" not in rows:
        return 0
    ratio, chunk = rows["spanledger"]["plain_us"] / rows["by hand"]["plain_us"], rows["spanledger"]["chunk_us"]
    print(f"plain call: {ratio:.2f} times a span by hand (at most {PLAIN_RATIO_MAX})")
    print(f"a chunk: {chunk:.2f} µs (at most {CHUNK_US_MAX})")
    return int(ratio > PLAIN_RATIO_MAX or chunk > CHUNK_US_MAX)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
