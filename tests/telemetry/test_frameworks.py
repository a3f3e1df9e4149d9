"""What holds for the spans that frameworks make of their tools themselves, where nothing of theirs is wrapped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import framework_case
import pytest
from framework_case import Case

import spanledger
from spanledger import Budget, Calls, Config, Ledger, Rule, workflow
from spanledger.telemetry import scopes
from spanledger.testing import ModelServer
from spanledger.testing.model_server import CallTool, Say

# Whoever asks the model again and again is told something else in the end, so that a test of an endless loop ends.
REQUESTS_MAX = 6
HANGS_AFTER_S = 60
TOLD = "was not run: budget 'few'"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every framework that is installed; of those asked for, all."""
    asked = metafunc.config.getoption("library")
    parameters = []
    for name in asked or framework_case.names():
        lacking = framework_case.lacking(name) if name in framework_case.names() else f"{name} has no case"
        if lacking:
            assert not asked, lacking
            parameters.append(pytest.param(None, id=name, marks=pytest.mark.skip(reason=lacking)))
        else:
            parameters.append(pytest.param(name, id=name))
    metafunc.parametrize("name", parameters)


@dataclass
class World:
    """An agent with one tool, and what it has done.

    Attributes:
        refunded: The orders refunded.
        raises: What the next refund raises, after it was done.
    """

    case: Case
    model: ModelServer
    refunded: list[str] = field(default_factory=list)
    raises: Exception | None = None

    def turn(self, workflow_id: str = "w", run: Callable[..., str] | None = None) -> str | BaseException:
        """Run one turn in a thread of its own; what the agent says last, or what ends the run."""

        def refund(order_id: str) -> str:
            """Refund an order."""
            self.refunded.append(order_id)
            if self.raises:
                raise self.raises
            return f"refund {len(self.refunded)}"

        ended: list[str | BaseException] = []

        def work() -> None:
            try:
                with workflow(workflow_id):
                    ended.append((run or self.case.run)(refund, self.model.url))
            except BaseException as error:
                ended.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(HANGS_AFTER_S)
        assert ended, "the run hangs"
        assert len(self.model.requests) < REQUESTS_MAX, "the run asks the model again and again"
        return ended[0]


@pytest.fixture
def case(name: str) -> Case:
    return framework_case.load(name)


@pytest.fixture
def world(case: Case, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    def script(request: dict[str, Any]) -> Say | CallTool:
        last = request["messages"][-1]
        if last["role"] == "tool" or len(server.requests) >= REQUESTS_MAX:
            return Say(f"Done: {last.get('content')}")
        return CallTool(case.tool, {"order_id": "o-1"})

    monkeypatch.setenv("OPENAI_API_KEY", "-")
    with ModelServer(script) as server:
        yield World(case, server)


@pytest.fixture
def instrument(dsn: str) -> Callable[..., Any]:
    """Close the gate with the given fields of `Config`, and wrap nothing."""
    return lambda **fields: spanledger.instrument(Config(**{"dsn": dsn} | fields), libraries=[])


def rows(ledger: Ledger, *names: str) -> Sequence[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in ledger.calls()]


def verdicts(spans: Any, case: Case) -> list[Any]:
    """The verdicts on the tool's spans; each of them was exported once."""
    own = [s for s in spans.all() if s.instrumentation_scope.name == case.scope and case.tool in s.name]
    return [span.attributes.get("spanledger.verdict") for span in own]


def test_a_call_of_its_tool_is_one_call_in_the_ledger(case, world, instrument, ledger, spans):
    instrument()
    assert "refund 1" in str(world.turn())
    assert world.refunded == ["o-1"]
    assert rows(ledger, "tool", "state") == [(case.tool, "succeeded")]
    assert verdicts(spans, case) == ["run"]


def test_it_is_in_the_table_of_scopes(case):
    assert case.scope in {scope.name for scope in scopes.SCOPES}


def test_beyond_a_budget_its_tool_does_not_run_and_the_run_ends(case, world, instrument, ledger, spans):
    instrument(budgets=[Budget("few", Calls(1), match=case.tool)])
    world.turn()
    ended = world.turn()
    assert world.refunded == ["o-1"]
    assert TOLD in str(ended)
    assert isinstance(ended, BaseException) is case.stops
    assert not isinstance(ended, BaseException) or isinstance(ended, Exception)
    assert verdicts(spans, case) == ["run", "budget_exceeded"]
    assert sorted(rows(ledger, "state")) == [("refused",), ("succeeded",)]


def test_where_the_rule_says_so_the_model_is_told_and_the_run_goes_on(case, world, instrument):
    if not case.tells:
        return
    instrument(budgets=[Budget("few", Calls(1), match=case.tool)], rules=[Rule(case.tool, on_refusal="tell")])
    world.turn()
    ended = world.turn()
    assert world.refunded == ["o-1"]
    assert (case.told or TOLD) in str(ended)
    assert not isinstance(ended, BaseException)


def test_a_tool_that_fails_has_not_succeeded(case, world, instrument, ledger):
    instrument()
    world.raises = ValueError("no such order")
    world.turn()
    assert {state for (state,) in rows(ledger, "state")} == {"failed"}


def test_without_a_persons_consent_nothing_runs(case, world, instrument, spans):
    instrument(rules=[Rule(case.tool, approval=True, wait_timeout_s=0)])
    world.turn()
    assert world.refunded == []
    says = scopes._BY_NAME[case.scope].says
    # Nobody can allow arguments that are not shown.
    assert verdicts(spans, case) == ["awaiting_approval" if says is scopes.Says.ARGUMENTS else "unauthorized"]


def test_what_succeeded_is_not_run_again_where_its_spans_show_what_it_is(case, world, instrument, ledger, spans):
    instrument(rules=[Rule(case.tool, identity="arguments")])
    first, second = world.turn(), world.turn()
    says = scopes._BY_NAME[case.scope].says
    if says is scopes.Says.ARGUMENTS:
        assert (first, second) == ("Done: refund 1", "Done: refund 1")
        assert world.refunded == ["o-1"]
        assert verdicts(spans, case) == ["run", "replay"]
    else:
        assert world.refunded == [], "it cannot be told apart, and its rule says that it has to be"
        assert "does not show them" in str(first)


def test_so_it_is_where_nobody_records_the_spans(case, world, instrument, ledger, spans):
    if case.unsampled is None:
        return
    instrument(rules=[Rule(case.tool, identity="arguments")])
    assert [world.turn(run=case.unsampled) for _ in range(2)] == ["Done: refund 1"] * 2
    assert world.refunded == ["o-1"]
    assert rows(ledger, "state") == [("succeeded",)]
    assert verdicts(spans, case) == []
