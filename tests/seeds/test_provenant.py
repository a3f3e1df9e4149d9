"""provenant, both products of that name: the AgentOps SDK (PV) and the authorizing SDK (PG)."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
import threading
from dataclasses import replace

import openai
import pytest

import spanledger
from spanledger import Budget, Config, Ledger, Money, ToolCall, tool, workflow
from spanledger.testing import ModelServer, Say
from spanledger.testing._http import Reply, Request

ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


# PV-D2: observability on the critical path

SILENT_COLLECTOR = """
import socket, sys, time
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
import os, spanledger
from spanledger import Config, tool, workflow

silent = socket.create_server(("127.0.0.1", 0))
exporter = OTLPSpanExporter(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces", timeout=30)
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1))
trace.set_tracer_provider(provider)
spanledger.instrument(Config(dsn=sys.argv[1]), libraries=[])

@tool
def refund(n: int) -> int:
    return n

with workflow("w"):
    refund(0)
    silent.accept()  # the exporter is at it now, and nobody answers
    start_s = time.monotonic()
    for n in range(20):
        refund(n)
    print(time.monotonic() - start_s, flush=True)
os._exit(0)
"""


def test_a_collector_that_does_not_answer_costs_calls_nothing(dsn: str) -> None:
    command = [sys.executable, "-c", SILENT_COLLECTOR, dsn]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert float(done.stdout) < 2, done.stderr


# PV-D3: what promised never to raise does


def test_instrumenting_does_not_need_a_ledger_that_answers(model: ModelServer, spans) -> None:
    spanledger.instrument(Config(dsn="host=/nowhere"), libraries=["openai"])
    with openai.OpenAI(base_url=model.url, api_key="offline") as client:
        client.chat.completions.create(**ASK)
    spans.one("chat gpt-4o")


# PV-D5: a stream is drained before its caller sees anything


class Pausing(ModelServer):
    """Sends the beginning of a stream, and the rest when it is let."""

    def __init__(self) -> None:
        super().__init__(lambda request: Say("one two three"))
        self.go_on = threading.Event()

    def answer(self, request: Request) -> Reply:
        reply = super().answer(request)

        def body():
            for n, chunk in enumerate(reply.body):
                if n == 2:
                    assert self.go_on.wait(30)
                yield chunk

        return replace(reply, body=body())


def test_chunks_come_as_they_are_sent(instrument) -> None:
    instrument()
    with Pausing() as model, openai.OpenAI(base_url=model.url, api_key="offline") as client:
        stream = client.chat.completions.create(**ASK, stream=True)
        first = next(stream)
        assert not model.go_on.is_set(), "the first is here, and the rest was not sent yet"
        model.go_on.set()
        assert len([first, *stream]) > 2


# PV-D12: the wrong price


def test_a_dated_model_has_its_own_price_and_not_that_of_one_whose_name_is_shorter(instrument, model, spans) -> None:
    instrument()
    with openai.OpenAI(base_url=model.url, api_key="offline") as client:
        for name in ("gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18"):
            client.chat.completions.create(
                **{**ASK, "model": name, "messages": [{"role": "user", "content": "x" * 4000}]}
            )
    large, small = (float(span.attributes["spanledger.cost"][0].split()[0]) for span in spans.all())
    assert small * 10 < large


# PG-D2: an asynchronous tool is complete before it runs


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("kind", ["coroutine function", "partial", "callable object"])
def test_an_asynchronous_tool_is_settled_when_it_has_run_and_not_before(kind: str, ledger: Ledger) -> None:
    seen = []

    async def pay(order_id: str) -> str:
        await asyncio.sleep(0)
        seen.extend(row["state"] for row in ledger.calls())
        raise ValueError("card expired")

    class Pays:
        async def __call__(self, order_id: str) -> str:
            return await pay(order_id)

    paying = {"coroutine function": pay, "partial": functools.partial(pay), "callable object": Pays()}[kind]
    refund = tool("refund")(paying)

    async def main() -> None:
        await refund("o-1")

    with pytest.raises(ValueError, match="card expired"):
        asyncio.run(main())
    assert seen == ["in_flight"]
    assert [row["state"] for row in ledger.calls()] == ["failed"]


# PG-D5: cancellation leaves the hold open


@pytest.mark.parametrize("outcome", ["failed", "succeeded", "retry"])
def test_what_an_interrupted_call_holds_is_held_until_somebody_says_what_became_of_it(ledger_with, outcome) -> None:
    ledger = ledger_with(budgets=[Budget("money", Money("5", "EUR"))])
    call = ToolCall("refund", workflow_id="w", cost=Money("5", "EUR"))

    def handler() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.run(call, handler)
    assert ledger.budget("money").held == Money("5", "EUR")
    assert ledger.resolve(ledger.key(call), by="ops", outcome=outcome, result="found")
    if outcome == "retry":
        assert ledger.run(call, lambda: "again") == "again"
    balance = ledger.budget("money")
    spent = Money("0" if outcome == "failed" else "5", "EUR")
    assert (balance.held, balance.spent) == (Money("0", "EUR"), spent)


# PG-D1: what goes wrong while the outcome is told


def test_a_tool_whose_outcome_cannot_be_told_is_not_reported_as_failed(instrument, ledger, sql, caplog) -> None:
    instrument(ledger_timeout_s=0.5)

    @tool
    def refund(order_id: str) -> str:
        sql.execute("begin")
        sql.execute("lock table spanledger.call in access exclusive mode")
        return "paid"

    with workflow("w"):
        assert refund("o-1") == "paid"
    sql.execute("rollback")
    assert "could not be recorded; it is kept on disk and told later" in caplog.text
    with workflow("w"):
        assert refund("o-1") == "paid"
    assert [row["attempts"] for row in ledger.calls()] == [1]
