"""After the function: what the ledger is told, and that nothing of ours is raised any more."""

from __future__ import annotations

import asyncio
import json
import logging
from decimal import Decimal
from typing import Any

import pytest
from by_hand import ASKING, RUN, Exact, asking, functions, played, refused

from spanledger import Rule
from spanledger.core.asking import Ask, Asking, Keep
from spanledger.core.call import Ended, Outcome
from spanledger.core.settling import finished, told_by_hand
from spanledger.core.values import decode
from spanledger.errors import ConfigError, LedgerUnavailable


def settled(ended: Ended, made: Asking = ASKING, codec: Any = None) -> tuple[Ask, Outcome]:
    (ask,), outcome = played(finished(made, RUN, ended, codec or Exact()), {"owned": True})
    assert ask.shielded
    return ask, outcome


@pytest.mark.parametrize("value", [None, 0, "", [], {"a": 1.0}, Decimal("1.10"), (1, 2)])
def test_a_result_is_kept_as_it_is(value: Any) -> None:
    ask, outcome = settled(Ended(value, cost={"EUR": 5}))
    kept = ask.item["result"]
    assert decode(json.loads(kept)) == value
    assert (ask.function, ask.item["result_kept"], outcome.result_kept) == ("settle", True, True)
    assert ask.item.items() >= {"key": "k", "attempt_id": "a-1", "cost": {"EUR": 5}, "tool": "refund"}.items()


@pytest.mark.parametrize(
    ("value", "made"),
    [
        (object(), ASKING),
        ("\ud800", ASKING),
        (float("nan"), ASKING),
        ("é" * 50, asking(result_bytes_max=101)),
        ("secret", asking(Rule("refund", keep_result=False))),
        ("once", asking(Rule("refund", identity="none"))),
    ],
)
def test_a_result_that_cannot_or_must_not_be_kept_is_a_success_all_the_same(value: Any, made: Asking) -> None:
    ask, outcome = settled(Ended(value), made)
    assert (ask.function, ask.item["result"], ask.item["result_kept"]) == ("settle", None, False)
    assert (outcome.recorded, outcome.result_kept) == ("succeeded", False)
    assert outcome.ended.value is value


def test_a_result_is_measured_in_bytes() -> None:
    assert settled(Ended("é" * 50), asking(result_bytes_max=102))[1].result_kept


@pytest.mark.parametrize(("why", "recorded"), [(None, "failed"), (TimeoutError(), "unknown")])
def test_a_run_suspended_because_of_a_timeout_has_not_undone_what_took_too_long(why: Any, recorded: str) -> None:
    error = InterruptedError("ask again")
    error.__context__ = why
    ask, outcome = settled(Ended(error=error, paused=True))
    assert outcome.recorded == recorded
    assert ("not_invoked" in ask.item) == (recorded == "failed")


def test_a_codec_that_fails_costs_the_replay_and_not_the_result() -> None:
    class Broken(Exact):
        def encode(self, result: Any) -> Any:
            raise RecursionError

    _, outcome = settled(Ended("done"), codec=Broken())
    assert (outcome.recorded, outcome.result_kept, outcome.ended.value) == ("succeeded", False, "done")


@pytest.mark.parametrize(
    ("error", "recorded"),
    [(ValueError("no"), "failed"), (TimeoutError("late"), "unknown"), (asyncio.CancelledError(), "unknown")],
)
def test_an_error_is_recorded_as_a_failure_or_as_unknown(error: BaseException, recorded: str) -> None:
    ask, outcome = settled(Ended(error=error))
    assert (ask.function, ask.item["outcome_unknown"]) == ("fail", recorded == "unknown")
    assert ask.item["error"]["message"] == str(error)
    assert "not_invoked" not in ask.item
    assert (outcome.recorded, outcome.ended.error) == (recorded, error)


def test_what_a_rule_says_of_an_error_counts() -> None:
    made = asking(Rule("refund", definite_errors=(TimeoutError,)))
    assert settled(Ended(error=TimeoutError()), made)[1].recorded == "failed"


def test_a_returned_value_that_says_it_failed_is_a_failure() -> None:
    ask, outcome = settled(Ended("Error: declined", failure="declined\0" * 1000))
    assert ask.function == "fail"
    assert ask.item["error"]["type"] == "failure"
    assert "\0" not in ask.item["error"]["message"]
    assert (outcome.recorded, outcome.ended.value) == ("failed", "Error: declined")


def test_a_pause_is_not_an_attempt() -> None:
    ask, outcome = settled(Ended(error=RuntimeError("approve?"), paused=True))
    assert (ask.function, ask.item["not_invoked"]) == ("fail", True)
    assert ask.item["error"] == {"type": "paused", "message": "approve?"}
    assert isinstance(outcome.ended.error, RuntimeError)


@pytest.mark.parametrize("function_ended", [Ended("done"), Ended(error=ValueError("no")), Ended(error=TimeoutError())])
@pytest.mark.parametrize("failure", [LedgerUnavailable("no answer"), ConfigError("gone"), RuntimeError("bug")])
@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (True, "is kept on disk and told later"),
        (False, "counts as unknown once its lease is over"),
        (RuntimeError("no thread"), "counts as unknown once its lease is over"),
    ],
)
def test_after_the_side_effect_nothing_is_raised(
    function_ended: Ended, failure: Exception, kept: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="spanledger.core"):
        (ask, keep), outcome = played(finished(ASKING, RUN, function_ended, Exact()), failure, kept)
    assert keep == Keep(ask)
    assert outcome == Outcome(RUN, function_ended, recorded="spooled" if kept is True else None)
    assert f"could not be recorded; it {said}" in caplog.text


def test_an_interruption_while_it_is_told_goes_on_and_the_outcome_is_kept() -> None:
    for interruption in (KeyboardInterrupt(), asyncio.CancelledError(), SystemExit()):
        asked, _ = refused(type(interruption), finished(ASKING, RUN, Ended("done"), Exact()), interruption, True)
        assert functions(asked) == ["settle", "Keep"]


def test_an_error_that_cannot_be_printed_is_recorded_and_reaches_the_caller() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    for paused in (True, False):
        error = Unprintable()
        assert settled(Ended(error=error, paused=paused))[1].ended.error is error


@pytest.mark.parametrize("ended", [Ended("done"), Ended(error=ValueError())])
def test_an_outcome_that_comes_too_late_says_so(ended: Ended) -> None:
    _, outcome = played(finished(ASKING, RUN, ended, Exact()), {"owned": False})
    assert (outcome.late, outcome.result_kept, outcome.ended) == (True, False, ended)


def test_an_outcome_of_a_call_that_the_ledger_does_not_have_is_kept_and_said(caplog) -> None:
    asked, outcome = played(finished(ASKING, RUN, Ended("done"), Exact()), {"owned": False, "known": False}, True)
    assert functions(asked) == ["settle", "Keep"]
    assert asked[1].ask == asked[0]
    assert (outcome.recorded, outcome.late, outcome.result_kept, outcome.ended.value) == (
        "spooled",
        True,
        False,
        "done",
    )
    assert "the ledger has no such call" in caplog.text


def test_what_was_run_by_hand_is_kept_where_the_ledger_does_not_have_the_call(caplog) -> None:
    ask = Ask("settle", "acme", {"key": "k", "attempt_id": "a-1"})
    asked, owned = played(told_by_hand(RUN, ask), {"owned": False, "known": False}, True)
    assert (functions(asked), owned) == (["settle", "Keep"], False)
    assert "the ledger has no such call" in caplog.text
