"""No way around: a refused tool span does not run its body, and is exported once with why wherever spans exist."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from hand_written import NAME, Exporting, attributes
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import (
    ConcurrentMultiSpanProcessor,
    SynchronousMultiSpanProcessor,
    Tracer,
    TracerProvider,
    _disable_tracer_configurator,
)
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    AlwaysRecordSampler,
    ParentBased,
    TraceIdRatioBased,
)
from opentelemetry.trace import NoOpTracer, StatusCode

import spanledger
from spanledger import Budget, Calls, Config, GuardrailSpanProcessor, errors, workflow
from spanledger.telemetry import spans

ONCE = {"budgets": [Budget("few", Calls(1))], "rules": []}


class Swallowing(SynchronousMultiSpanProcessor):
    """What the SDK may do one day: processors that raise are logged, and the span goes on."""

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        for processor in self._span_processors:
            with contextlib.suppress(Exception):
                processor.on_start(span, parent_context)

    def _on_ending(self, span: Any) -> None:
        for processor in self._span_processors:
            with contextlib.suppress(Exception):
                processor._on_ending(span)


NOT_EXPORTED: dict[str, dict[str, Any]] = {
    "always off": {"sampler": ALWAYS_OFF},
    "ratio 0": {"sampler": TraceIdRatioBased(0)},
    "parent based ratio 0": {"sampler": ParentBased(TraceIdRatioBased(0))},
    "always record": {"sampler": AlwaysRecordSampler(ParentBased(TraceIdRatioBased(0)))},
    "a disabled tracer": {"_tracer_configurator": _disable_tracer_configurator},
}
EXPORTED: dict[str, Callable[[], dict[str, Any]]] = {
    "sampled": dict,
    "always record, sampled": lambda: {"sampler": AlwaysRecordSampler(ALWAYS_ON)},
    "processors that are not heard": lambda: {"active_span_processor": Swallowing()},
    "one thread for all processors": lambda: {"active_span_processor": ConcurrentMultiSpanProcessor(num_threads=1)},
    "threads for processors": lambda: {"active_span_processor": ConcurrentMultiSpanProcessor(num_threads=4)},
}


def run_once_then_refused(tracer: Any) -> None:
    with tracer.start_as_current_span(NAME):
        pass
    with pytest.raises(errors.BudgetExceeded), tracer.start_as_current_span(NAME, attributes={"mine": 1}):
        pytest.fail("must not run")
    with pytest.raises(errors.BudgetExceeded):
        tracer.start_span(NAME)


@pytest.mark.parametrize("how", NOT_EXPORTED.values(), ids=NOT_EXPORTED)
@pytest.mark.parametrize("processor", [True, False], ids=["processor", "gate alone"])
def test_where_no_span_is_exported_the_body_does_not_run_either(how, processor, instrument):
    instrument(**ONCE)
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False, **how)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    if processor:
        provider.add_span_processor(GuardrailSpanProcessor())

    run_once_then_refused(provider.get_tracer("test"))

    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize("how", EXPORTED.values(), ids=EXPORTED)
@pytest.mark.parametrize("export", [SimpleSpanProcessor, BatchSpanProcessor])
@pytest.mark.parametrize("order", ["guard first", "guard last", "gate alone"])
def test_where_spans_exist_the_refusal_is_exported_once_with_why(how, export, order, instrument):
    instrument(**ONCE)
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False, **how())
    processors = [] if order == "gate alone" else [GuardrailSpanProcessor()]
    processors.insert(0 if order == "guard last" else 1, export(exporter))
    for processor in processors:
        provider.add_span_processor(processor)

    run_once_then_refused(provider.get_tracer("test"))

    provider.force_flush()
    ran, refused, again = exporter.get_finished_spans()
    provider.shutdown()
    assert ran.attributes["spanledger.verdict"] == "run"
    assert refused.attributes["mine"] == 1
    for span in (refused, again):
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["spanledger.verdict"] == "budget_exceeded"
        assert span.attributes["spanledger.budget.names"] == ("few",)


def test_suppressed_instrumentation_suppresses_no_verdict(instrument, sdk):
    instrument(**ONCE)
    with suppress_instrumentation():
        run_once_then_refused(sdk.tracer)


def test_private_providers_and_tracers_made_before_share_one_gate(instrument, sdk):
    early, late = sdk.tracer, Exporting()
    instrument(**ONCE)
    with early.start_as_current_span(NAME):
        pass
    for tracer in (late.tracer, NoOpTracer()):
        with pytest.raises(errors.BudgetExceeded), tracer.start_as_current_span(NAME):
            pytest.fail("must not run")
    assert [span.attributes["spanledger.verdict"] for span in late.spans()] == ["budget_exceeded"]


# --- whose tracer it is


class Duck:
    """A tracer that is none by its class, with spans of the API."""

    def start_span(self, name: str, context: Any = None, kind: Any = None, attributes: Any = None) -> Any:
        return trace.NonRecordingSpan(trace.INVALID_SPAN_CONTEXT)

    def start_as_current_span(self, name: str, **kwargs: Any) -> Any:
        return trace.use_span(self.start_span(name, **kwargs), end_on_exit=True)


def vendors() -> Any:
    """A class of tracers that begins spans without asking its base."""

    class Vendors(trace.Tracer):
        start_span = vars(Duck)["start_span"]
        start_as_current_span = vars(Duck)["start_as_current_span"]

    return Vendors()


def test_a_vendor_s_tracer_of_a_class_that_was_there_before_is_guarded(instrument):
    tracer = vendors()
    instrument(**ONCE)
    run_once_then_refused(tracer)


def test_a_vendor_s_tracer_of_a_class_that_is_defined_later_is_guarded(instrument):
    instrument(**ONCE)
    tracer = vendors()
    run_once_then_refused(tracer)
    spanledger.uninstrument()
    assert type(tracer).start_span is vars(Duck)["start_span"]
    assert "__init_subclass__" not in vars(trace.Tracer)


def test_a_tracer_above_the_sdk_s_is_asked_about_once(instrument, sdk, ledger):
    class Above(Tracer):
        def start_span(self, name: str, context: Any = None, **kwargs: Any) -> Any:
            return super().start_span(name, context, **kwargs)

    instrument()
    sdk.tracer.__class__ = Above
    sdk.provider.add_span_processor(GuardrailSpanProcessor())
    with workflow("w"):
        with sdk.tracer.start_as_current_span(NAME, attributes=attributes()) as span:
            assert type(span) is spans.GuardedSpan
        with pytest.raises(errors.CallReplayed), sdk.tracer.start_as_current_span(NAME, attributes=attributes()):
            pytest.fail("must not run")
    (row,) = ledger.calls()
    assert (row["state"], row["attempt"]) == ("succeeded", 1)


def test_a_root_span_stays_a_root(instrument, sdk):
    instrument(rules=[])
    with sdk.tracer.start_as_current_span("around"), sdk.tracer.start_as_current_span(NAME, context=Context()) as span:
        assert span.parent is None


def test_what_is_given_by_place_or_by_name_reaches_a_tracer_as_it_was_given(instrument, sdk):
    instrument(**ONCE)
    span = sdk.tracer.start_span(NAME, None, trace.SpanKind.CLIENT, {"mine": 1}, (), 7)
    assert (span.kind, span.attributes["mine"], span.start_time) == (trace.SpanKind.CLIENT, 1, 7)
    with pytest.raises(errors.BudgetExceeded):
        sdk.tracer.start_span(name="x", attributes={"gen_ai.operation.name": "execute_tool"}, kind=None)


PROVIDERS = """
    import logging, sys
    from opentelemetry import trace
    import spanledger
    from spanledger import Budget, Calls, Config, errors
    sys.path.insert(0, "{tests}")
    from test_no_way_around import Duck

    class Provider:
        def get_tracer(self, *args, **kwargs):
            {get_tracer}

    def install():
        trace.set_tracer_provider(Provider())

    logging.basicConfig()
    {setup}
    try:
        for _ in range(2):
            with trace.get_tracer("test").start_as_current_span("execute_tool refund"):
                print("ran")
    except errors.BudgetExceeded:
        print("refused")
"""
GUARD = 'spanledger.instrument(Config(dsn="{dsn}", budgets=[Budget("few", Calls(1))]), libraries=[])'


def run_with_provider(dsn: str, get_tracer: str, *setup: str) -> subprocess.CompletedProcess[str]:
    lines = "; ".join(setup).format(dsn=dsn)
    program = PROVIDERS.format(tests=__file__.rpartition("/")[0], get_tracer=get_tracer, setup=lines)
    return subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("setup", [("install()", GUARD), (GUARD, "install()")], ids=["before", "after"])
def test_the_tracer_of_an_installed_provider_is_guarded_whatever_its_class(setup, dsn):
    done = run_with_provider(dsn, "return Duck()", *setup)
    assert (done.stdout.split(), done.returncode) == (["ran", "refused"], 0), done.stderr


IMPOSSIBLE = "return type('T', (), {'__slots__': (), '__getattr__': lambda s, n: getattr(Duck(), n)})()"


def test_where_the_installed_provider_cannot_be_guarded_instrument_fails(dsn):
    done = run_with_provider(dsn, IMPOSSIBLE, "install()", GUARD)
    assert done.returncode == 1
    assert "WrapMissing: a refused tool span would still run with __main__.T" in done.stderr
    assert "ran" not in done.stdout


@pytest.mark.parametrize("get_tracer", [IMPOSSIBLE, "raise RuntimeError('no tracer today')"])
def test_one_that_is_installed_later_breaks_nothing_and_is_named_in_the_log(get_tracer, dsn):
    done = run_with_provider(dsn, get_tracer, GUARD, "install()")
    assert "spans of the provider that is installed now are not guarded" in done.stderr


# --- several processors, and late ones


def test_a_processor_added_after_tracers_exist_settles_and_refuses_their_spans(dsn, sdk, ledger):
    tracer = sdk.tracer
    sdk.provider.add_span_processor(GuardrailSpanProcessor(Config(dsn=dsn, **ONCE)))
    run_once_then_refused(tracer)
    assert sorted(row["state"] for row in ledger.calls()) == ["refused", "refused", "succeeded"]


def test_two_processors_of_one_configuration_ask_once(dsn, sdk, ledger):
    other = Exporting()
    for provider in (sdk.provider, sdk.provider, other.provider):
        provider.add_span_processor(GuardrailSpanProcessor(Config(dsn=dsn, **ONCE)))
    with sdk.tracer.start_as_current_span(NAME):
        pass
    with pytest.raises(errors.BudgetExceeded), other.tracer.start_as_current_span(NAME):
        pytest.fail("must not run")
    assert ledger.budget("few").spent == Calls(1)


def test_two_processors_of_two_configurations_are_refused_for_one_would_not_count(dsn):
    GuardrailSpanProcessor(Config(dsn=dsn, **ONCE))
    with pytest.raises(errors.ConfigError, match="guarded by another configuration already"):
        GuardrailSpanProcessor(Config(dsn=dsn))
    spanledger.uninstrument()
    GuardrailSpanProcessor(Config(dsn=dsn))


def test_a_processor_that_is_shut_down_leaves_the_gate_closed(dsn, sdk):
    sdk.provider.add_span_processor(GuardrailSpanProcessor(Config(dsn=dsn, **ONCE)))
    with sdk.tracer.start_as_current_span(NAME):
        pass
    sdk.provider.shutdown()
    with pytest.raises(errors.BudgetExceeded), sdk.tracer.start_as_current_span(NAME):
        pytest.fail("must not run")


def test_instrument_twice_guards_by_the_last_configuration_and_asks_once(instrument, sdk, ledger):
    instrument(budgets=[Budget("never counts", Calls(9))], rules=[])
    sdk.provider.add_span_processor(GuardrailSpanProcessor())
    instrument(**ONCE)
    instrument(**ONCE)
    run_once_then_refused(sdk.tracer)
    assert ledger.budget("few").spent == Calls(1)


def test_past_the_gate_processors_in_threads_of_their_own_refuse_rather_than_hang(instrument):
    instrument()
    provider = TracerProvider(shutdown_on_exit=False, active_span_processor=ConcurrentMultiSpanProcessor(num_threads=1))
    provider.add_span_processor(GuardrailSpanProcessor())
    tracer = provider.get_tracer("test")
    with pytest.raises(errors.WrapMissing, match="SynchronousMultiSpanProcessor"):
        Tracer.start_span.__wrapped__(tracer, NAME)
    Tracer.start_span.__wrapped__(tracer, "chat").end()
    provider.shutdown()
