"""What a traced model call costs: CPU added to a call of the OpenAI client, ours beside a span written by hand.

    python -m tests.benchmarks.model_calls [--processes N] [--rounds N] [--only NAME]

Rules: no network: the client's transport answers at once. In one process, blocks of calls with a contender, with a span
by hand and with neither take turns, and the medians of what they add to their neighbours are compared; CPU time of the
calling thread, so that waiting and other processes do not count. Where a process has its code and data in memory is
chance and moves the ratio by a tenth and more, so that the median of several processes counts, and the smallest and
the largest are told; what a span by hand costs beside another one is noise. By hand means a span with the very
attributes that ours has, read off the answer, and its cost at prices that are written down in the program. The price of
a chunk is the slope between short and long streams. Others are measured where they are installed. No ledger is asked:
nothing here has a budget, and a private server that nobody uses is not asked for controls. Whatever holds for one
machine are ratios; absolute figures do not.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx2
import openai
from openai.resources.chat.completions import Completions
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

import spanledger
from spanledger import Config

ASK: dict[str, Any] = {"model": "gpt-5", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.5}
BLOCK_CALLS, STREAM_BLOCK_CALLS = 40, 8
SHORT_CHUNKS, LONG_CHUNKS = 20, 220
PLAIN_RATIO_MAX, CHUNK_US_MAX = 1.5, 5.0
# Where contenders put what they add.
PLACES = ((Completions, "create"), (openai.OpenAI, "request"), (openai.OpenAI, "post"), (Tracer, "start_span"))
OFF, REFERENCE = "off", "reference"
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
    create, tracer = Completions.create, trace.get_tracer("by hand")

    def traced(self: Completions, **kwargs: Any) -> Any:
        with tracer.start_as_current_span("chat gpt-5", kind=trace.SpanKind.CLIENT, attributes=asked) as span:
            answer = create(self, **kwargs)
            if kwargs.get("stream"):
                return answer
            reported, read = answer.usage, answer.usage.prompt_tokens_details
            fresh, cached = reported.prompt_tokens - read.cached_tokens, read.cached_tokens
            cost = fresh * 1.25 + cached * 0.125 + reported.completion_tokens * 10
            span.set_attributes({
                "gen_ai.response.model": answer.model,
                "gen_ai.response.id": answer.id,
                "gen_ai.response.finish_reasons": [choice.finish_reason for choice in answer.choices],
                "gen_ai.usage.input_tokens": reported.prompt_tokens,
                "gen_ai.usage.output_tokens": reported.completion_tokens,
                "gen_ai.usage.cache_read.input_tokens": cached,
                "gen_ai.usage.cache_write.input_tokens": read.cache_write_tokens,
                "gen_ai.usage.reasoning.output_tokens": reported.completion_tokens_details.reasoning_tokens,
                "spanledger.cost": [f"{cost / 1e6:.6f} USD"],
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


class Switch:
    """Puts contenders in place and takes them away again, whoever cannot be taken away as well."""

    def __init__(self) -> None:
        self._places = {OFF: self._found()}

    def add(self, name: str, put: Callable[[], None]) -> None:
        """Let a contender put itself in place, and remember what it has put there."""
        put()
        self._places[name] = self._found()
        self.to(OFF)

    def to(self, name: str) -> None:
        """Have what a contender has put in place, and nothing else."""
        for (owner, attribute), value in self._places[name].items():
            if value is not None:
                setattr(owner, attribute, value)
            elif attribute in vars(owner):
                delattr(owner, attribute)

    @staticmethod
    def _found() -> dict[tuple[type, str], Any]:
        return {place: vars(place[0]).get(place[1]) for place in PLACES}


def block_us(call: Callable[[], Any], calls: int) -> float:
    started = time.thread_time_ns()
    for _ in range(calls):
        call()
    return (time.thread_time_ns() - started) / 1000 / calls


def added_us(switch: Switch, names: Sequence[str], call: Callable[[], Any], calls: int, rounds: int) -> list[float]:
    """Say what each of some contenders adds to a call."""
    turns = [OFF, *names]
    for name in turns:
        switch.to(name)
        block_us(call, calls)
    differences: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    for number in range(rounds):
        times = {}
        for name in turns if number % 2 else reversed(turns):
            switch.to(name)
            times[name] = block_us(call, calls)
        for name in names:
            differences[name].append(times[name] - times[OFF])
    gc.enable()
    switch.to(OFF)
    return [statistics.median(differences[name]) for name in names]


def measured(name: str, rounds: int) -> dict[str, float]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(EXPORTER))
    trace.set_tracer_provider(provider)
    puts = {"nothing": nothing, "by hand": by_hand, "spanledger": spanledgers}
    asking = client()
    asking.chat.completions.create(**ASK)

    def drain(chunks: int) -> Callable[[], Any]:
        return lambda: sum(1 for _ in asking.chat.completions.create(**ASK, stream=True, user=str(chunks)))

    switch = Switch()
    switch.add(REFERENCE, by_hand)
    switch.add(name, puts.get(name) or other(name))
    by_hand_us, plain_us = added_us(
        switch, (REFERENCE, name), lambda: asking.chat.completions.create(**ASK), BLOCK_CALLS, rounds
    )
    (short,) = added_us(switch, (name,), drain(SHORT_CHUNKS), STREAM_BLOCK_CALLS, rounds)
    (long,) = added_us(switch, (name,), drain(LONG_CHUNKS), STREAM_BLOCK_CALLS, rounds)
    return {
        "plain": plain_us,
        "ratio": plain_us / by_hand_us,
        "stream": short,
        "chunk": (long - short) / (LONG_CHUNKS - SHORT_CHUNKS),
    }


def in_processes(name: str, processes: int, rounds: int) -> dict[str, list[float]]:
    """Measure a contender in processes of its own, one after the other.

    Raises:
        RuntimeError: One of them has failed.
    """
    command = [sys.executable, "-m", __spec__.name, "--child", name, "--rounds", str(rounds)]
    found: dict[str, list[float]] = {}
    for _ in range(processes):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
        for figure, value in json.loads(done.stdout.splitlines()[-1]).items():
            found.setdefault(figure, []).append(value)
    return found


def main(argv: list[str]) -> int:
    options = argparse.ArgumentParser(prog="python -m tests.benchmarks.model_calls")
    options.add_argument("--processes", type=int, default=7)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--only", choices=CONTENDERS)
    options.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    given = options.parse_args(argv)
    if given.child:
        print(json.dumps(measured(given.child, given.rounds)))
        return 0
    reached = True
    print(f"{'CPU added, in µs':20}{'plain call':>12}{'x by hand':>22}{'short stream':>14}{'a chunk':>10}")
    for name in [given.only] if given.only else CONTENDERS:
        if name in OTHERS and not is_installed(OTHERS[name][0]):
            print(f"{name:20}not installed")
            continue
        try:
            found = in_processes(name, given.processes, given.rounds)
        except RuntimeError as failed:
            print(f"{name:20}failed: {failed}")
            reached = reached and name in OTHERS
            continue
        middle = {figure: statistics.median(values) for figure, values in found.items()}
        spread = f"{middle['ratio']:.2f} ({min(found['ratio']):.2f} to {max(found['ratio']):.2f})"
        print(
            f"{name:20}{middle['plain']:12.1f}{spread:>22}{middle['stream']:14.1f}{middle['chunk']:10.2f}", flush=True
        )
        if name == "spanledger":
            reached = middle["ratio"] <= PLAIN_RATIO_MAX and middle["chunk"] <= CHUNK_US_MAX
    print(f"ours at most: {PLAIN_RATIO_MAX} times a span by hand, {CHUNK_US_MAX} µs a chunk")
    return int(not reached)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
