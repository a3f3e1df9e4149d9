"""A program whose agent does all that a decision trace can show."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import spanledger
from spanledger import Budget, Config, Ledger, Money, Rule, Switch, current_call, errors

EUR = Money("10.00", "EUR")
# What is told in the background has its time to half of a round trip: what follows it sooner may come before it.
PAUSE_S = 0.1
config = Config(
    rules=[
        Rule("refund", identity="arguments", reserve=lambda _: EUR),
        Rule("wire", identity="arguments", reserve=lambda _: EUR, approval=True, wait_timeout_s=0),
    ],
    budgets=[Budget("refunds", Money("25.00", "EUR"), match="refund", per=("workflow",))],
    switches=[Switch("mail", allowed=False, reason="the relay is down")],
)


def wait_until_the_step_is_told() -> None:
    """What an agent says is told in the background, while its tool works."""
    until_s = time.monotonic() + 10
    with Ledger() as ledger:
        while all(row["what"] != "step" for row in ledger.timeline("order-124")) and time.monotonic() < until_s:
            time.sleep(0.02)


@spanledger.tool
def refund(order_id: str) -> str:
    if order_id == "o-killed":
        wait_until_the_step_is_told()
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
        time.sleep(PAUSE_S)
        refund("o-1")
        time.sleep(PAUSE_S)
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
