"""A program whose agent does all that a decision trace can show."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import spanledger
from spanledger import Budget, Config, Money, Rule, Switch, current_call, errors

EUR = Money("10.00", "EUR")
config = Config(
    rules=[
        Rule("refund", identity="arguments", reserve=lambda _: EUR),
        Rule("wire", identity="arguments", reserve=lambda _: EUR, approval=True, wait_timeout_s=0),
    ],
    budgets=[Budget("refunds", Money("25.00", "EUR"), match="refund", per=("workflow",))],
    switches=[Switch("mail", allowed=False, reason="the relay is down")],
)


@spanledger.tool
def refund(order_id: str) -> str:
    if order_id == "o-killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if order_id == "o-unknown":
        raise TimeoutError("no answer from the bank")
    current_call().charge(Money("9.50", "EUR"))
    return "paid"


@spanledger.tool
def wire(to: str) -> str:
    return f"sent to {to}"


@spanledger.tool
def mail(to: str) -> str:
    return to


def day(workflow_id: str) -> None:
    with spanledger.workflow(workflow_id, agent="support", goal="refund order 123", actor="u_42") as run:
        run.step("the customer is entitled to a refund")
        run.decide("method", options=["card", "voucher"], chosen="card", because="paid by card")
        refund("o-1")
        refund("o-1")
        for call in (lambda: refund("o-unknown"), lambda: refund("o-2"), lambda: mail("a@b"), lambda: wire("ada")):
            with contextlib.suppress(TimeoutError, errors.SpanledgerError):
                call()


def killed(workflow_id: str) -> None:
    with spanledger.workflow(workflow_id, agent="support", goal="refund\x1b[2J order 124"):
        spanledger.step("it is due")
        refund("o-killed")


def wired(workflow_id: str) -> None:
    with spanledger.workflow(workflow_id, agent="support"):
        wire("ada")


if __name__ == "__main__":
    provider = TracerProvider()
    if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ:
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    spanledger.instrument(config, libraries=[])
    {"day": day, "killed": killed, "wired": wired}[sys.argv[1]](sys.argv[2])
