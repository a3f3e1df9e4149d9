"""Spans of other instrumentations: who opened them decides what stops it, and what cannot be stopped is said."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from hand_written import NAME, TRACERS, Exporting, attributes, state_of
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import spanledger
from spanledger import Budget, Calls, Rule, errors, workflow
from spanledger.doctor.finding import OK, WARN
from spanledger.doctor.spans import of_spans
from spanledger.instrument import _registry
from spanledger.telemetry import scopes

SWALLOWS = "opentelemetry.instrumentation.langchain"
UNSTOPPABLE = "openinference.instrumentation.llama_index"
NONE = [Budget("none", Calls(0), match="refund")]


@pytest.fixture
def opened_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Makes a function of a module that opens a span, as an instrumentation does; the module counts as imported."""

    def make(module: str) -> Any:
        made = ModuleType(module)
        exec("def open_span(tracer, *args, **kwargs):\n    return tracer.start_span(*args, **kwargs)", made.__dict__)
        parts = module.split(".")
        for package in (".".join(parts[:depth]) for depth in range(1, len(parts))):
            if package not in sys.modules:
                monkeypatch.setitem(sys.modules, package, ModuleType(package))
        monkeypatch.setitem(sys.modules, module, made)
        return made.open_span

    return make


@pytest.fixture
def refusing(instrument: Any) -> None:
    """No refund is allowed."""
    instrument(rules=[], budgets=NONE)


@pytest.mark.usefixtures("refusing")
def test_a_hand_written_span_is_stopped_by_our_error(tracer):
    with pytest.raises(errors.BudgetExceeded):
        tracer.start_span(NAME)


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize("scope", [scope for scope in scopes.SCOPES if not scope.unstoppable], ids=lambda s: s.name)
def test_every_scope_of_the_table_is_stopped_by_something_of_which_our_error_is_the_reason(scope, sdk):
    with pytest.raises(BaseException) as caught:
        sdk.provider.get_tracer(scope.name).start_span(NAME)
    assert isinstance(caught.value, errors.BudgetExceeded) or isinstance(caught.value.__cause__, errors.BudgetExceeded)
    assert [span.attributes["spanledger.verdict"] for span in sdk.spans()] == ["budget_exceeded"]


@pytest.mark.usefixtures("refusing")
def test_where_every_exception_is_swallowed_the_tool_does_not_run_all_the_same(sdk):
    def swallowing_callback() -> None:
        try:
            sdk.provider.get_tracer(SWALLOWS).start_span(NAME)
        except Exception:
            pytest.fail("it would be swallowed, and the tool run")

    with pytest.raises(errors.CallStopped, match="none") as caught:
        swallowing_callback()
    assert isinstance(caught.value.error, errors.BudgetExceeded)
    assert caught.value.__cause__ is caught.value.error
    back = pickle.loads(pickle.dumps(caught.value))
    assert (str(back), back.error.budget) == (str(caught.value), "none")


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize("tracer", [pytest.param(make, id=name) for name, make in TRACERS.items()])
def test_where_no_scope_is_known_the_module_that_opens_the_span_says_who_it_is(tracer, opened_by):
    tracer = tracer()
    with pytest.raises(errors.CallStopped):
        opened_by(f"{SWALLOWS}.callback_handler")(tracer, NAME)
    for module in ("strands.telemetry.tracer", "strandsmine", f"{SWALLOWS}x", "agents.tools"):
        with pytest.raises(errors.BudgetExceeded):
            opened_by(module)(tracer, NAME)


@pytest.mark.usefixtures("refusing")
def test_what_runs_whatever_is_raised_is_left_alone_and_said_once(sdk, ledger, caplog):
    scopes._warn.cache_clear()
    for _ in range(2):
        sdk.provider.get_tracer(UNSTOPPABLE).start_span(NAME).end()
    assert ledger.calls() == [], "a refusal in the ledger of what ran would be a lie"
    assert [name for span in sdk.spans() for name in span.attributes] == []
    assert caplog.text.count(f"spans of {UNSTOPPABLE} are not guarded") == 1


@pytest.mark.usefixtures("refusing")
def test_spans_of_tools_that_a_library_of_ours_wraps_are_left_to_it(sdk, ledger, caplog):
    scopes.leave_to(["langchain", "llama_index"])
    scopes._warn.cache_clear()
    for scope in (SWALLOWS, UNSTOPPABLE):
        sdk.provider.get_tracer(scope).start_span(NAME).end()
    assert ledger.calls() == []
    assert "not guarded" not in caplog.text
    spanledger.uninstrument()
    assert scopes._wrapped == frozenset()


def test_instrument_says_which_spans_are_left_to_libraries(dsn, tracer, opened_by):
    spanledger.instrument(spanledger.Config(dsn=dsn, budgets=NONE), libraries=["langchain"])
    with pytest.raises(errors.BudgetExceeded):
        tracer.start_span(NAME)
    opened_by(SWALLOWS)(Exporting(ALWAYS_OFF).tracer, NAME).end()


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Packages that the test makes are not there for others, who would take them for the real ones."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("openinference", "strands")):
            del sys.modules[name]


@pytest.mark.usefixtures("forgotten")
def test_the_doctor_says_how_far_the_spans_of_what_is_installed_are_guarded(tmp_path, monkeypatch):
    unseen = "openinference.instrumentation.langchain"
    for module in ("strands", "openinference/instrumentation/llama_index", unseen.replace(".", "/")):
        package = tmp_path / module
        package.mkdir(parents=True)
        for folder in (package, *package.relative_to(tmp_path).parents):
            (tmp_path / folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_registry, "LIBRARIES", {"pydantic_ai": ""})
    found = {finding.says.split(":")[0]: finding for finding in of_spans(spanledger.Config())}
    named, unstoppable = found["of strands.telemetry.tracer"], found[f"of {UNSTOPPABLE}"]
    assert (named.state, unstoppable.state, found[f"of {unseen}"].state) == (OK, WARN, WARN)
    assert "no more of a call than its name" in named.says
    assert "of pydantic-ai" not in found, "a library of ours stands for it"
    assert list(of_spans(spanledger.Config(mode="off"))) == []


# --- what a span shows of its result


@pytest.mark.usefixtures("closed")
def test_a_result_that_no_span_has_shown_is_not_given_back_as_none(tracer):
    @spanledger.tool
    def refund(order_id: str) -> str:
        pytest.fail("must not run")

    tracer.start_span(NAME, attributes=attributes()).end()
    with pytest.raises(errors.CallReplayed) as caught:
        tracer.start_span(NAME, attributes=attributes())
    assert caught.value.result is None
    with pytest.raises(errors.ResultNotKept):
        refund("o-1")


@pytest.mark.usefixtures("closed")
def test_nor_is_it_given_to_a_framework_that_would_take_it_for_the_result(tracer, opened_by):
    opener = opened_by("pydantic_ai._durable_replay")
    tracer.start_span(NAME, attributes=attributes()).end()
    with pytest.raises(errors.ResultNotKept):
        opener(Exporting(ALWAYS_OFF).tracer, NAME, attributes=attributes())


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("keep", [True, False])
def test_a_guarded_span_that_nobody_records_wants_the_result_if_it_is_kept(keep, instrument):
    instrument(rules=[Rule("refund", identity="arguments", keep_result=keep)])
    tracer = Exporting(ALWAYS_OFF).tracer
    span = tracer.start_span(NAME, attributes=attributes())
    assert span.is_recording() is keep
    span.end()
    assert span.is_recording() is False
    assert tracer.start_span("other").is_recording() is False


# --- one call, two spans


def sent(tracer: Any) -> None:
    """The MCP SDK's span of a client, which shows no arguments."""
    tracer.start_span("MCP send tools/call refund", attributes={"mcp.method.name": "tools/call"}).end()


def test_the_span_of_an_mcp_client_is_a_call_by_name(instrument, tracer, ledger):
    instrument(rules=[], budgets=[Budget("few", Calls(1), match="refund")])
    tracer.start_span("MCP send tools/list", attributes={"mcp.method.name": "tools/list"}).end()
    sent(tracer)
    with pytest.raises(errors.BudgetExceeded):
        sent(tracer)
    assert state_of_first(ledger) == ("refund", "none", "succeeded")


def state_of_first(ledger: Any) -> tuple[str, str, str]:
    row = ledger.calls()[-1]
    return row["tool"], row["key_source"], row["state"]


def test_inside_the_call_that_sends_it_it_is_that_call_however_often_it_is_sent(instrument, tracer, ledger):
    instrument(budgets=[Budget("few", Calls(9))])
    with workflow("w"), tracer.start_as_current_span(NAME, attributes=attributes()):
        sent(tracer)
        sent(tracer)
    assert ledger.budget("few").spent == Calls(1)
    with pytest.raises(errors.Undescribable):  # alone, it does not show what its rule goes by
        sent(tracer)


def test_a_guarded_function_that_a_framework_shows_by_name_is_counted_once(instrument, tracer, ledger):
    instrument(rules=[], budgets=[Budget("few", Calls(9))])
    ran: list[str] = []

    @spanledger.tool
    def refund(order_id: str) -> str:
        ran.append(order_id)
        return "done"

    with workflow("w"):
        for _ in range(2):
            with tracer.start_as_current_span(NAME):
                assert refund("o-1") == "done"
    assert ran == ["o-1"], "the function goes by its arguments, whatever the framework shows"
    assert ledger.budget("few").spent == Calls(2)  # one that ran, and a span that cannot know that nothing did


# --- exceptions that are no end


@pytest.mark.usefixtures("closed")
def test_a_tool_that_asks_for_consent_before_it_has_done_anything_has_not_run(tracer, ledger):
    paused = type("ApprovalRequired", (Exception,), {"__module__": "pydantic_ai.exceptions"})
    for _ in range(2):
        with pytest.raises(paused), tracer.start_as_current_span(NAME, attributes=attributes()):
            raise paused
    (row,) = ledger.calls()
    assert (row["state"], row["attempts"]) == ("released", 0)


@pytest.mark.usefixtures("closed")
def test_a_span_of_arguments_too_large_for_the_ledger_is_guarded_and_shows_no_arguments(tracer, ledger):
    huge = attributes(**{"gen_ai.tool.call.arguments": '{"note": "' + "x" * 2_000_000 + '"}'})
    tracer.start_span(NAME, attributes=huge).end()
    with pytest.raises(errors.CallReplayed):
        tracer.start_span(NAME, attributes=huge)
    assert state_of(ledger) == "succeeded"
    assert len(ledger.calls()[0]["arguments"] or "") < 100_000
