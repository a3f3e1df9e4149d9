"""Calls that are told apart by which of the equal ones of a run they are."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from opentelemetry import trace

import spanledger
from spanledger import Budget, Calls, Rule, _numbers, current_call, errors, tool, tool_call, workflow
from spanledger.telemetry.decision import surroundings

RULE = Rule("roll", identity="occurrence")


class Dice:
    """What was rolled, in order; what is in `raises` is raised first."""

    def __init__(self) -> None:
        self.rolled: list[int] = []
        self.raises: list[BaseException] = []
        self.inside: Callable[[], Any] = lambda: None

    def __call__(self) -> int:
        self.rolled.append(len(self.rolled) + 1)
        if self.raises:
            raise self.raises.pop(0)
        self.inside()
        return len(self.rolled)


@pytest.fixture
def dice() -> Dice:
    return Dice()


@pytest.fixture
def roll(dice: Dice) -> Callable[[int], int]:
    @tool("roll", identity="occurrence")
    def roll(sides: int) -> int:
        return dice()

    return roll


def run(*functions: Callable[[], Any], name: str = "w") -> list[Any]:
    with workflow(name):
        return [function() for function in functions]


# --- runs


def test_equal_calls_of_a_run_all_run_and_the_next_run_replays_them_one_by_one(instrument, roll, dice, ledger, spans):
    instrument()
    assert run(lambda: roll(6), lambda: roll(6)) == [1, 2]
    assert run(*[lambda: roll(6)] * 3) == [1, 2, 3]
    assert dice.rolled == [1, 2, 3]
    assert {row["key_source"] for row in ledger.calls()} == {"occurrence"}
    said = [span.attributes for span in spans.all("execute_tool roll")]
    assert [(one["spanledger.verdict"], one["spanledger.call.occurrence"]) for one in said] == [
        *[("run", 1), ("run", 2)],
        *[("replay", 1), ("replay", 2), ("run", 3)],
    ]


def test_a_workflow_that_is_opened_again_is_another_run(instrument, roll, dice):
    instrument()
    again = workflow("w")
    for _ in range(3):
        with again:
            assert [roll(6), roll(6)] == [1, 2]
    assert dice.rolled == [1, 2]


def test_other_arguments_and_other_workflows_are_counted_by_themselves(instrument, roll):
    instrument()
    assert run(lambda: roll(6), lambda: roll(20), lambda: roll(6)) == [1, 2, 3]
    assert run(lambda: roll(20), lambda: roll(6)) == [2, 1]
    assert run(lambda: roll(6), name="v") == [4]


def test_tasks_and_threads_of_a_run_have_numbers_of_their_own(instrument, dice):
    instrument()
    barrier = threading.Barrier(2)
    dice.inside = barrier.wait

    @tool("roll", identity="occurrence")
    def roll(sides: int) -> int:
        return dice()

    def both() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(roll, [6, 6]))

    async def awaiting() -> list[int]:
        return await asyncio.gather(*[asyncio.to_thread(roll, 6) for _ in range(2)])

    run(both)
    assert len(dice.rolled) == 2
    run(both, lambda: asyncio.run(awaiting()))
    assert len(dice.rolled) == 4


def test_a_turn_of_a_session_is_a_run_of_its_own(instrument, roll):
    instrument()
    for expected in ([1, 2], [1, 2]):
        with spanledger.session("chat") as chat, chat.turn("m-1"):
            assert [roll(6), roll(6)] == expected


def test_spans_that_nobody_wrapped_are_counted_as_well(instrument, dice):
    instrument(rules=[RULE])
    said = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "roll", "gen_ai.tool.call.arguments": "{}"}

    def roll() -> int | None:
        try:
            with trace.get_tracer("mine").start_as_current_span("execute_tool roll", attributes=said) as span:
                span.set_attribute("gen_ai.tool.call.result", dice())
        except errors.CallReplayed as error:
            return error.result
        return None

    assert run(roll, roll) == [None, None]
    assert run(roll, roll, roll) == [1, 2, None]


# --- where nobody opened a workflow


def test_without_a_workflow_a_trace_is_an_execution(instrument, roll):
    instrument()
    traced = trace.NonRecordingSpan(trace.SpanContext(7, 8, is_remote=True))
    with trace.use_span(traced):
        assert [roll(6), roll(6)] == [1, 2]
    with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(9, 8, is_remote=True))):
        assert roll(6) == 3
    with trace.use_span(traced):
        assert roll(6) == 4


def test_of_many_executions_without_a_workflow_the_oldest_is_forgotten(instrument, roll, monkeypatch):
    instrument()
    monkeypatch.setattr(_numbers, "EXECUTIONS_MAX", 2)
    monkeypatch.setattr(_numbers, "_executions", OrderedDict())  # what other tests have left is older still
    for number in (1, 2, 1, 3, 1, 2):
        with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(number, 8, is_remote=True))):
            roll(6)
    assert len(_numbers._executions) == 2
    with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(1, 8, is_remote=True))):
        assert roll(6) == 6
    with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(3, 8, is_remote=True))):
        assert roll(6) == 4


def test_without_a_trace_it_is_this_process(instrument, roll):
    instrument()
    assert [roll(6), roll(6), roll(6)] == [1, 2, 3]


def test_a_workflow_that_the_environment_names_is_counted_over_all_traces_of_the_process(instrument, roll):
    instrument(workflow_id="job-1")
    for expected in (1, 2):
        with trace.get_tracer("mine").start_as_current_span("one of many"):
            assert roll(6) == expected


# --- what did not run, or failed


def test_what_was_refused_is_asked_for_again_under_its_own_number(instrument, roll, dice, ledger):
    instrument(budgets=[Budget("few", Calls(1))])
    with workflow("w"):
        assert roll(6) == 1
        for _ in range(2):
            with pytest.raises(errors.BudgetExceeded):
                roll(6)
        ledger.top_up("few", Calls(5), by="ada")
        assert [roll(6), roll(6)] == [2, 3]
    assert run(*[lambda: roll(6)] * 3) == [1, 2, 3]
    assert len(ledger.calls()) == 3


def test_who_asks_again_for_what_a_person_was_asked_about_asks_for_the_same(instrument, dice, ledger):
    instrument(rules=[Rule("roll", identity="occurrence", approval=True, wait_timeout_s=0)])
    roll = tool("roll")(lambda sides: dice())
    for _ in range(2):  # the second run is as another process
        with workflow("w"):
            for _ in range(2):
                with pytest.raises(errors.ApprovalPending):
                    roll(6)
    (asked,) = ledger.approvals()
    ledger.approve(asked.id, by="ada")
    with workflow("w"):
        assert roll(6) == 1
        with pytest.raises(errors.ApprovalPending):
            roll(6)
    assert len(ledger.approvals()) == 1
    assert dice.rolled == [1]


def test_a_call_that_failed_is_made_again_by_the_next_equal_one(instrument, roll, dice, ledger):
    instrument()
    dice.raises = [ValueError("off the table")]
    with workflow("w"):
        with pytest.raises(ValueError, match="off the table"):
            roll(6)
        assert [roll(6), roll(6)] == [2, 3]
    assert run(lambda: roll(6), lambda: roll(6)) == [2, 3]
    assert sorted(row["attempts"] for row in ledger.calls()) == [1, 2]


def test_what_may_have_taken_effect_is_not_gone_round_by_asking_again(instrument, roll, dice):
    instrument()
    dice.raises = [httpx.ReadTimeout("no answer")]
    with workflow("w"):
        with pytest.raises(httpx.ReadTimeout):
            roll(6)
        for _ in range(2):
            with pytest.raises(errors.OutcomeUnknown):
                roll(6)
    assert dice.rolled == [1]


def test_a_result_that_was_not_kept_is_no_reason_to_run_again(instrument, dice):
    instrument(rules=[Rule("roll", identity="occurrence", keep_result=False)])
    roll = tool("roll")(lambda sides: dice())
    run(lambda: roll(6))
    with workflow("w"):
        for _ in range(2):
            with pytest.raises(errors.ResultNotKept):
                roll(6)
    assert dice.rolled == [1]


# --- calls inside calls


def test_the_same_call_through_a_second_door_has_the_number_of_the_first(instrument, roll, dice, ledger):
    instrument(budgets=[Budget("few", Calls(2))])
    outer = tool("roll", identity="occurrence")(lambda sides: roll(sides))  # noqa: PLW0108 - its name
    assert run(lambda: outer(6), lambda: outer(6)) == [1, 2]
    assert run(lambda: outer(6), lambda: outer(6)) == [1, 2]
    assert ledger.budget("few").spent == Calls(2)
    assert len(ledger.calls()) == 2


def test_what_is_inside_a_call_is_counted_in_it_because_a_replay_asks_for_none_of_it(instrument, roll):
    instrument()

    @tool
    def play(game: str) -> int:
        return roll(6) + roll(6)

    assert run(lambda: play("go"), lambda: roll(6)) == [3, 3]
    assert run(lambda: play("go"), lambda: roll(6), lambda: roll(6)) == [3, 3, 4]


def test_another_attempt_of_a_call_goes_on_where_the_first_one_failed(instrument, roll, dice):
    instrument()
    fails = [True]

    @tool
    def play(game: str) -> list[int]:
        rolled = [roll(6), roll(6)]
        if fails:
            fails.pop()
            raise ValueError(game)
        return rolled

    with workflow("w"):
        with pytest.raises(ValueError, match="go"):
            play("go")
        assert play("go") == [1, 2]
    assert dice.rolled == [1, 2]


def test_a_workflow_that_is_opened_inside_a_call_counts_for_itself(instrument, roll):
    instrument()

    @tool
    def play(game: str) -> list[int]:
        return run(lambda: roll(6), lambda: roll(6), name="inner")

    assert run(lambda: play("go")) == [[1, 2]]
    assert run(lambda: roll(6), lambda: roll(6), name="inner") == [1, 2]


def test_a_workflow_named_at_the_call_is_the_same_inside_another_call(instrument, dice):
    instrument()

    def roll() -> int:
        with tool_call("roll", {}, workflow_id="order-1", identity="occurrence") as call:
            if not call.replayed:
                call.result = dice()
        return call.result

    @tool
    def play(game: str) -> int:
        return roll()

    assert run(lambda: play("go")) == [1]
    assert run(roll, roll, name="other") == [1, 2]


def test_a_call_that_outlives_the_one_around_is_counted_with_those_of_the_run(instrument, roll):
    instrument()
    late: list[threading.Thread] = []
    over = threading.Event()

    @tool
    def play(game: str) -> str:
        within = surroundings()

        def later() -> None:
            over.wait()
            with within():
                roll(6)

        late.append(threading.Thread(target=later))
        late[0].start()
        return game

    with workflow("w"):
        play("go")
        over.set()
        late[0].join()
        assert roll(6) == 2
    assert run(lambda: roll(6), lambda: roll(6)) == [1, 2]


# --- mode "shadow"


def test_in_shadow_all_run_and_what_would_be_replayed_is_known_by_number(instrument, roll, dice, ledger):
    instrument()
    run(lambda: roll(6))
    spanledger.uninstrument()
    instrument(mode="shadow")
    run(lambda: roll(6), lambda: roll(6))
    spanledger.uninstrument()  # all is told
    assert dice.rolled == [1, 2, 3]
    assert [row["verdict"] for row in ledger.passed_over()] == ["replay"]


def test_a_running_call_is_given_its_own_key(instrument, dice):
    instrument()
    keys: list[str | None] = []
    roll = tool("roll", identity="occurrence")(lambda sides: keys.append(current_call().key))
    run(lambda: roll(6), lambda: roll(6))
    assert len(set(keys)) == 2
