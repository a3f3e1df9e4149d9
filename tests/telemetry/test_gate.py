"""No tool span starts without a verdict: on any provider, sampled or not, whatever the order of processors."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from contextlib import nullcontext

import pytest
from hand_written import NAME, TRACERS, Exporting, attributes
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracer, StatusCode

import spanledger
from spanledger import (
    Budget,
    Calls,
    Config,
    GuardrailSpanProcessor,
    errors,
)
from spanledger.telemetry import gate, spans

# --- once, on whatever tracer


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("tracer", [pytest.param(make, id=name) for name, make in TRACERS.items()])
def test_a_span_that_succeeded_is_replayed_and_its_body_does_not_run(tracer, ledger):
    tracer = tracer()
    with tracer.start_as_current_span(NAME, attributes=attributes()) as span:
        span.set_attribute("gen_ai.tool.call.result", '{"refund": 7}')
    with pytest.raises(errors.CallReplayed) as caught, tracer.start_as_current_span(NAME, attributes=attributes()):
        pytest.fail("must not run")
    assert caught.value.result == {"refund": 7}
    assert ledger.get(caught.value.key)["state"] == "succeeded"
    with tracer.start_as_current_span(NAME, attributes=attributes("o-2")):
        pass


@pytest.mark.parametrize("tracer", [pytest.param(make, id=name) for name, make in TRACERS.items()])
def test_beyond_a_budget_the_body_does_not_run(tracer, instrument):
    instrument(budgets=[Budget("few", Calls(1), operations=("execute_tool",))], rules=[])
    tracer = tracer()
    with tracer.start_as_current_span("chat gpt-5", attributes={"gen_ai.operation.name": "chat"}):
        with tracer.start_as_current_span(NAME):
            pass
        with pytest.raises(errors.BudgetExceeded) as caught, tracer.start_as_current_span(NAME):
            pytest.fail("must not run")
    assert caught.value.budget == "few"


PROGRAM = """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    import spanledger
    from spanledger import Budget, Calls, Config, GuardrailSpanProcessor, errors

    early = trace.get_tracer("taken before there was a provider")
    config = Config(dsn="{dsn}", budgets=[Budget("few", Calls(1))])
    {setup}
    for tracer in (early, trace.get_tracer("test")):
        try:
            with tracer.start_as_current_span("execute_tool refund"):
                print("ran")
        except errors.BudgetExceeded:
            print("refused")
"""
SETUPS = {
    "no provider": "spanledger.instrument(config)",
    "a provider": "trace.set_tracer_provider(TracerProvider()); spanledger.instrument(config)",
    "a processor": (
        "trace.set_tracer_provider(TracerProvider()); "
        "trace.get_tracer_provider().add_span_processor(GuardrailSpanProcessor(config))"
    ),
}


@pytest.mark.parametrize(
    ("setup", "environment"),
    [
        ("no provider", {}),
        ("a provider", {}),
        ("a provider", {"OTEL_SDK_DISABLED": "true"}),
        ("a processor", {}),
        ("a processor", {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_SAMPLER": "always_off"}),
    ],
)
def test_a_whole_program_is_guarded_whatever_the_sdk_is_told(setup, environment, dsn):
    program = textwrap.dedent(PROGRAM.format(dsn=dsn, setup=SETUPS[setup]))
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.stdout.split(), done.returncode) == (["ran", "refused"], 0), done.stderr


# --- processors


def test_a_processor_added_by_hand_closes_the_gate(dsn, sdk):
    with sdk.tracer.start_as_current_span(NAME, attributes=attributes()) as span:
        assert type(span) is not spans.GuardedSpan
    sdk.provider.add_span_processor(GuardrailSpanProcessor(Config(dsn=dsn, budgets=[Budget("none", Calls(1))])))
    unsampled = Exporting(ALWAYS_OFF)
    with unsampled.tracer.start_as_current_span(NAME, attributes=attributes()):
        pass
    with pytest.raises(errors.BudgetExceeded), sdk.tracer.start_as_current_span(NAME, attributes=attributes()):
        pytest.fail("must not run")


def test_a_processor_without_a_configuration_uses_that_of_the_process(instrument, sdk, ledger):
    instrument(budgets=[Budget("few", Calls(1))])
    sdk.provider.add_span_processor(GuardrailSpanProcessor())
    with sdk.tracer.start_as_current_span(NAME, attributes=attributes("o-1")):
        pass
    with pytest.raises(errors.BudgetExceeded), sdk.tracer.start_as_current_span(NAME, attributes=attributes("o-2")):
        pytest.fail("must not run")


@pytest.mark.parametrize("export", [SimpleSpanProcessor, BatchSpanProcessor])
@pytest.mark.parametrize("order", ["guard first", "guard last", "two guards"])
def test_a_refused_span_is_exported_once_with_why(export, order, dsn):
    guard = GuardrailSpanProcessor(Config(dsn=dsn, budgets=[Budget("few", Calls(1))]))
    exporter = InMemorySpanExporter()
    processors = {
        "guard first": [guard, export(exporter)],
        "guard last": [export(exporter), guard],
        "two guards": [
            guard,
            export(exporter),
            GuardrailSpanProcessor(Config(dsn=dsn, budgets=[Budget("few", Calls(1))])),
        ],
    }[order]
    provider = TracerProvider(shutdown_on_exit=False)
    for processor in processors:
        provider.add_span_processor(processor)
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span(NAME):
        pass
    with pytest.raises(errors.BudgetExceeded), tracer.start_as_current_span(NAME, attributes={"mine": 1}):
        pytest.fail("must not run")
    provider.force_flush()
    ran, refused = exporter.get_finished_spans()
    provider.shutdown()
    assert (ran.status.status_code, ran.attributes["spanledger.call.outcome"]) == (StatusCode.UNSET, "succeeded")
    assert refused.status.status_code is StatusCode.ERROR
    expected = {
        "mine": 1,
        "spanledger.verdict": "budget_exceeded",
        "spanledger.budget.names": ("few",),
        "spanledger.budget.remaining": ("0 calls",),
        "error.type": "BudgetExceeded",
    }
    assert {name: refused.attributes[name] for name in expected} == expected
    assert "few" in refused.status.description


@pytest.mark.usefixtures("closed")
def test_a_replayed_span_is_exported_once_and_links_to_the_one_that_ran(sdk):
    with sdk.tracer.start_as_current_span(NAME, attributes=attributes()):
        pass
    with pytest.raises(errors.CallReplayed), sdk.tracer.start_as_current_span(NAME, attributes=attributes()):
        pytest.fail("must not run")
    ran, replayed = sdk.spans()
    assert replayed.status.status_code is StatusCode.UNSET
    assert replayed.attributes["spanledger.verdict"] == "replay"
    assert [link.context.span_id for link in replayed.links] == [ran.context.span_id]


# --- taking it off


def test_uninstrument_opens_the_gate_and_puts_back_the_very_functions(instrument, tracer, ledger):
    before = Tracer.__dict__["start_span"], NoOpTracer.__dict__["start_span"]
    instrument()
    instrument()
    assert Tracer.__dict__["start_span"] is not before[0]
    spanledger.uninstrument()
    assert Tracer.__dict__["start_span"] is before[0]
    assert NoOpTracer.__dict__["start_span"] is before[1]
    with tracer.start_as_current_span(NAME, attributes=attributes()):
        pass
    assert ledger.calls() == []


def test_a_span_that_is_open_when_the_gate_is_opened_still_ends(instrument, tracer):
    instrument()
    with tracer.start_as_current_span(NAME, attributes=attributes()):
        spanledger.uninstrument()


# --- the proof


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("owner", [Tracer, NoOpTracer])
def test_a_gate_that_somebody_has_bypassed_is_noticed(owner, monkeypatch, instrument):
    gate.prove()
    with monkeypatch.context() as patched:
        patched.setattr(owner, "start_span", owner.start_span.__wrapped__)
        with pytest.raises(errors.WrapMissing, match="would still run"):
            gate.prove()


def test_where_refusals_do_not_hold_instrument_fails_and_leaves_nothing(instrument, monkeypatch):
    before = Tracer.__dict__["start_span"]
    monkeypatch.setattr(NoOpTracer, "start_as_current_span", lambda *args, **kwargs: nullcontext())
    with pytest.raises(errors.WrapMissing):
        instrument()
    assert Tracer.__dict__["start_span"] is before


@pytest.mark.parametrize("how", ["given", "environment"])
def test_in_mode_off_a_processor_does_nothing_and_needs_no_ledger(how, monkeypatch, sdk):
    monkeypatch.setenv("SPANLEDGER_MODE", "off")
    monkeypatch.setenv("SPANLEDGER_EMBEDDED", "off")

    sdk.provider.add_span_processor(GuardrailSpanProcessor(Config(mode="off") if how == "given" else None))

    ran = []
    for _ in range(2):
        with sdk.tracer.start_as_current_span(NAME, attributes=attributes()):
            ran.append(1)

    assert ran == [1, 1]
