"""The life of one call, driven by hand: every answer the ledger, a probe or the function can give."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from by_hand import ASKING, CALL, NOW_S, RUN, Exact, asking, begun, functions, played, refused

from spanledger import Calls, Money, Rule, over
from spanledger.core.approvals import Approval
from spanledger.core.asking import Ask, Asking, Invoke, Listen, Look, Wait
from spanledger.core.call import Begun, Call, Ended, Outcome, Resolution
from spanledger.core.controls import Switch
from spanledger.core.steps import admitted, guarded
from spanledger.core.values import encode
from spanledger.errors import (
    ApprovalDenied,
    ApprovalPending,
    BudgetExceeded,
    CallFailed,
    CallInProgress,
    ConfigError,
    KeyReused,
    LedgerUnavailable,
    NotAuthorized,
    OutcomeUnknown,
    ResultNotKept,
)

# --- begin


def test_a_call_that_may_run_is_begun_invoked_and_settled() -> None:
    asked, outcome = played(guarded(ASKING, Exact()), RUN, Ended({"id": "r-1"}), {"owned": True})
    begin, invoke, settle = asked
    assert (begin.function, begin.tenant, begin.shielded) == ("begin", "acme", False)
    assert invoke == Invoke(RUN)
    assert (settle.function, settle.shielded) == ("settle", True)
    assert outcome == Outcome(RUN, Ended({"id": "r-1"}), recorded="succeeded", result_kept=True)


def test_begin_is_told_all_that_it_decides_by() -> None:
    rule = Rule("refund", reserve=Money("1", "EUR"), lease_s=5, attempts_max=2, on_failure="replay", replay_for_s=9)
    made = asking(rule)
    item = made.item()
    assert json.loads(json.dumps(item)) == item
    assert item | {"key": made.identity.key, "fingerprint": made.identity.fingerprint} == item
    expected = {
        "attempt_id": "a-1",
        "tool": "refund",
        "workflow_id": "w-1",
        "call_id": "call_a1",
        "key_source": "arguments",
        "arguments": '{"order_id":"o-1"}',
        "rule": "refund",
        "reserve": {"calls": 1, "EUR": 1_000_000},
        "lease_s": 5,
        "replay_for_s": 9,
        "attempts_max": 2,
        "on_failure": "replay",
        "on_unknown": "ask",
        "on_mismatch": "replay",
    }
    assert {name: item[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("verdict", "fields", "kind", "data"),
    [
        ("key_reused", {}, KeyReused, {}),
        ("outcome_unknown", {"attempts": 2}, OutcomeUnknown, {"attempts": 2}),
        (
            "failed",
            {"attempts": 3, "details": {"error": {"type": "x", "message": "card declined"}}},
            CallFailed,
            {"attempts": 3, "error": {"type": "x", "message": "card declined"}},
        ),
        ("failed", {}, CallFailed, {"error": {}}),
        (
            "budget_exceeded",
            {"details": {"budget": "day", "remaining": Money("1", "EUR")}, "reason": "too little left"},
            BudgetExceeded,
            {"budget": "day", "remaining": Money("1", "EUR"), "spent": None},
        ),
    ],
)
def test_every_other_verdict_is_the_error_of_its_name_with_its_data(
    verdict: str, fields: dict[str, Any], kind: type[BaseException], data: dict[str, Any]
) -> None:
    asked, error = refused(kind, guarded(ASKING, Exact()), begun(verdict, **fields))
    assert functions(asked) == ["begin"]
    assert {name: getattr(error, name) for name in ("key", *data)} == {"key": "k", **data}
    assert "'refund'" in str(error)
    assert str(fields.get("reason") or "") in str(error)


# --- replay


def test_a_replay_gives_back_what_was_kept_and_runs_nothing() -> None:
    kept = encode({"amount": Decimal("1.10"), "n": (1, 2)}, exact=True)
    answer = begun("replay", result=kept, result_kept=True)
    asked, outcome = played(guarded(ASKING, Exact()), answer)
    assert functions(asked) == ["begin"]
    assert outcome.ended.value == {"amount": Decimal("1.10"), "n": (1, 2)}
    assert (outcome.replayed, outcome.recorded, outcome.result_kept) == (True, "succeeded", True)


def test_a_kept_none_is_a_result() -> None:
    assert played(guarded(ASKING, Exact()), begun("replay", result_kept=True))[1].ended == Ended(None)


def test_a_success_whose_result_was_not_kept_is_not_run_again() -> None:
    asked, error = refused(ResultNotKept, guarded(ASKING, Exact()), begun("replay", result_kept=False))
    assert (functions(asked), error.key) == (["begin"], "k")


def test_a_result_that_can_no_longer_be_given_back_is_not_run_again() -> None:
    answer = begun("replay", result={"$decimal": "not a number"}, result_kept=True)
    asked, error = refused(ResultNotKept, guarded(ASKING, Exact()), answer)
    assert (functions(asked), error.key) == (["begin"], "k")
    assert error.__cause__ is not None


# --- waiting


def in_progress(at_s: float, **details: Any) -> Begun:
    return begun("in_progress", now_s=NOW_S + at_s, details=details)


def test_who_waits_says_so_first_and_asks_again_so_that_no_change_is_missed() -> None:
    done = begun("replay", result="ok", result_kept=True)
    replies = [in_progress(0), "waiter", in_progress(0, left_s=50), None, done]
    asked, outcome = played(guarded(ASKING, Exact()), *replies)
    assert functions(asked) == ["begin", "Listen", "begin", "Wait", "begin"]
    assert {step.item["attempt_id"] for step in asked if isinstance(step, Ask)} == {"a-1"}
    assert [step.item.get("wait_s") for step in asked if isinstance(step, Ask)] == [None, 30, 30]
    assert asked[1] == Listen("acme", "k")
    assert asked[3] == Wait("waiter", 30, 50)
    assert outcome.ended.value == "ok"


def test_a_waiter_gives_up_at_its_deadline_on_the_clock_of_the_ledger() -> None:
    impatient = asking(Rule("refund", wait_timeout_s=5))
    replies = [in_progress(0), None, in_progress(0), None, in_progress(4.99), None, in_progress(5)]
    asked, error = refused(CallInProgress, admitted(impatient), *replies)
    assert functions(asked) == ["begin", "Listen", "begin", "Wait", "begin", "Wait", "begin"]
    assert asked[5].wait_s == pytest.approx(0.01)
    assert error.key == "k"


def test_a_caller_that_does_not_want_to_wait_does_not() -> None:
    asked, _ = refused(CallInProgress, admitted(asking(Rule("refund", wait_timeout_s=0))), in_progress(0))
    assert functions(asked) == ["begin"]


# --- approvals

PENDING = begun("awaiting_approval", approval_id="4f6f", details={"left_s": 3600, "requested": True})


def test_a_hook_is_told_once_of_the_approval_that_this_call_has_asked_for() -> None:
    told: list[Approval] = []
    made = asking(Rule("refund", approval=True), on_approval_needed=told.append)
    replies = [PENDING, None, None, PENDING, None, begun("denied", details={"by": "eve"}, reason="too much")]
    asked, error = refused(ApprovalDenied, admitted(made), *replies)
    assert functions(asked) == ["begin", "Look", "Listen", "begin", "Wait", "begin"]
    asked[1].probe()
    assert [(a.id, a.tool, a.arguments) for a in told] == [("4f6f", "refund", {"order_id": "o-1"})]
    assert (told[0].expires_at - told[0].requested_at).total_seconds() == 3600
    assert (error.approver, error.reason) == ("eve", "too much")


def test_a_request_of_somebody_elses_is_not_told_again() -> None:
    theirs = begun("awaiting_approval", approval_id="4f6f", details={"left_s": 3600, "requested": False})
    made = asking(Rule("refund", approval=True, wait_timeout_s=0), on_approval_needed=lambda approval: None)
    asked, error = refused(ApprovalPending, admitted(made), theirs)
    assert functions(asked) == ["begin"]
    assert error.approval_id == "4f6f"


def test_a_hook_that_fails_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    made = asking(Rule("refund", approval=True), on_approval_needed=lambda approval: None)
    asked, _ = played(admitted(made), PENDING, RuntimeError("no route to chat"), None, RUN)
    assert functions(asked) == ["begin", "Look", "Listen", "begin"]
    assert "on_approval_needed failed for refund; the request stands" in caplog.text


@pytest.mark.parametrize(
    ("verdict", "details", "kind", "says"),
    [
        ("expired", {}, ApprovalDenied, "nobody answered in time"),
        ("denied", {"by": "eve"}, ApprovalDenied, "eve denied it: too much"),
        ("unauthorized", {"switch": "re*", "by": "ops"}, NotAuthorized, "'re\\*' is stopped by ops: too much"),
    ],
)
def test_a_no_is_an_error_that_says_who_and_why(verdict: str, details: Any, kind: Any, says: str) -> None:
    _, error = refused(kind, admitted(ASKING), begun(verdict, details=details, reason="too much"))
    assert re.search(says, str(error))
    assert error.key == "k"


# --- probes


def probing(find: Callable[[Call, str], Any] = lambda call, key: None) -> Asking:
    return asking(Rule("refund", probe=find))


UNKNOWN = begun("outcome_unknown", attempt=4, details={"probe": True}, attempts=2)


@pytest.mark.parametrize(
    ("found", "item"),
    [
        (
            Resolution("succeeded", {"id": 1.0}),
            {"outcome": "succeeded", "result": '{"id":1.0}', "result_kept": True},
        ),
        (Resolution("failed", reason="no such refund"), {"outcome": "failed", "reason": "no such refund"}),
        (Resolution("retry", reason="a\0b"), {"outcome": "retry", "reason": "a\ufffdb"}),
    ],
)
def test_what_a_probe_found_out_is_told_to_the_ledger_which_decides_again(found: Resolution, item: Any) -> None:
    asked, admitted_ = played(admitted(probing()), UNKNOWN, found, {"owned": True}, RUN)
    assert functions(asked) == ["begin", "Look", "probed", "begin"]
    resolve = asked[2]
    assert resolve.item.items() >= ({"key": "k", "attempt": 4} | item).items()
    assert resolve.item["by"].startswith("probe:")
    assert admitted_ == replace(RUN, details={"probed": found})


def test_a_probe_is_asked_about_this_call_and_its_key() -> None:
    seen: list[Any] = []
    asked, _ = played(
        admitted(probing(lambda *about: seen.append(about))), UNKNOWN, Resolution("retry"), {"owned": True}, RUN
    )
    assert isinstance(asked[1], Look)
    asked[1].probe()
    assert seen == [(CALL, "k")]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, "could not tell either"),
        (ConnectionError("payments are down"), "payments are down"),
        (Resolution("done"), "a probe returns a Resolution"),
        (True, "a probe returns a Resolution"),
        (Resolution("succeeded", object()), "has no JSON form"),
    ],
)
def test_a_probe_that_cannot_tell_leaves_the_outcome_unknown(found: Any, reason: str) -> None:
    asked, error = refused(OutcomeUnknown, guarded(probing(), Exact()), UNKNOWN, found, {"owned": True})
    assert functions(asked) == ["begin", "Look", "probed"]
    assert asked[2].item["outcome"] == "unknown"
    assert (error.key, error.attempts) == ("k", 2)
    assert reason in str(error)


def test_an_unknown_outcome_that_is_not_ours_to_probe_is_refused() -> None:
    elsewhere = begun("outcome_unknown", details={})
    assert functions(refused(OutcomeUnknown, admitted(probing()), elsewhere)[0]) == ["begin"]
    assert functions(refused(OutcomeUnknown, admitted(ASKING), UNKNOWN)[0]) == ["begin"]


def test_a_cancelled_probe_resolves_nothing() -> None:
    asked, _ = refused(asyncio.CancelledError, admitted(probing()), UNKNOWN, asyncio.CancelledError())
    assert functions(asked) == ["begin", "Look"]


# --- a ledger that does not answer


def test_without_an_answer_the_call_does_not_run() -> None:
    asked, error = refused(LedgerUnavailable, guarded(ASKING, Exact()), LedgerUnavailable("no answer"))
    assert (functions(asked), error.key) == (["begin"], ASKING.identity.key)


def test_where_the_rule_says_so_the_call_runs_unguarded_and_is_recorded_later() -> None:
    continuing = asking(Rule("refund", on_ledger_down="continue"))
    lost = LedgerUnavailable("no answer", asked=True)
    asked, outcome = played(guarded(continuing, Exact()), lost, Ended("done"), True)
    assert functions(asked) == ["begin", "Invoke", "Keep"]
    assert [asked[2].begin.function, asked[2].ask.function] == ["begin", "settle"]
    assert {asked[2].begin.item["attempt_id"], asked[2].ask.item["attempt_id"]} == {"a-1"}
    ran = outcome.begun
    assert (ran.unguarded, ran.tool, ran.tenant, ran.key_source) == (True, "refund", "acme", "arguments")
    assert (ran.key, ran.attempt, outcome.ended.value) == (continuing.identity.key, 0, "done")
    assert (outcome.recorded, outcome.result_kept) == ("spooled", False)


def test_a_claim_that_may_have_been_made_without_an_answer_is_given_back_later() -> None:
    asked, _ = refused(LedgerUnavailable, guarded(ASKING, Exact()), LedgerUnavailable("no", asked=True), True)
    assert functions(asked) == ["begin", "Keep"]
    assert (asked[1].ask.function, asked[1].ask.item["not_invoked"]) == ("fail", True)
    asked, _ = refused(LedgerUnavailable, guarded(ASKING, Exact()), LedgerUnavailable("no connection"))
    assert functions(asked) == ["begin"]


def test_a_ledger_that_can_never_answer_is_no_ledger_that_is_down() -> None:
    continuing = asking(Rule("refund", on_ledger_down="continue"))
    assert functions(refused(ConfigError, admitted(continuing), ConfigError("run `spanledger migrate`"))[0]) == [
        "begin"
    ]


@pytest.mark.parametrize("said", ["in_progress", "awaiting_approval"])
def test_what_the_ledger_has_said_holds_when_it_is_down_a_moment_later(said: str) -> None:
    continuing = asking(Rule("refund", on_ledger_down="continue"))
    lost = LedgerUnavailable("no answer", asked=True)
    asked, _ = refused(LedgerUnavailable, guarded(continuing, Exact()), begun(said), "waiter", lost, True)
    assert functions(asked) == ["begin", "Listen", "begin", "Keep"]
    assert asked[-1].ask.item["not_invoked"]


@pytest.mark.parametrize(
    ("rule", "config"),
    [
        ({"approval": True}, {}),
        ({"approval": over(Calls(0))}, {}),
        ({"approval": over(Money("1", "EUR")), "reserve": Money("2", "EUR")}, {}),
        ({"approval": over(Money("1", "EUR")), "reserve": Money("1", "USD")}, {}),
        ({}, {"switches": (Switch("ref*", allowed=False),)}),
    ],
)
def test_what_a_person_has_to_allow_or_a_switch_stops_does_not_run_unguarded(
    rule: dict[str, Any], config: dict[str, Any]
) -> None:
    continuing = asking(Rule("refund", on_ledger_down="continue", **rule), **config)
    asked, _ = refused(LedgerUnavailable, guarded(continuing, Exact()), LedgerUnavailable("no connection"))
    assert functions(asked) == ["begin"]


def test_a_call_too_small_to_need_an_approval_runs_unguarded() -> None:
    small = Rule("refund", approval=over(Money("2", "EUR")), reserve=Money("2", "EUR"), on_ledger_down="continue")
    asked, _ = played(guarded(asking(small), Exact()), LedgerUnavailable("no connection"), Ended("done"), True)
    assert functions(asked) == ["begin", "Invoke", "Keep"]


# --- interruptions


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, asyncio.CancelledError, SystemExit])
def test_interrupted_before_the_function_ran_the_claim_is_given_back(interruption: type[BaseException]) -> None:
    asked, _ = refused(interruption, guarded(ASKING, Exact()), interruption(), {"owned": True})
    begin, fail = asked
    assert (fail.function, fail.tenant, fail.shielded) == ("fail", "acme", True)
    assert (fail.item["not_invoked"], fail.item["attempt_id"]) == (True, "a-1")
    # With it, the ledger remembers a call whose begin comes later.
    assert {"key", "tool", "operation", "workflow_id", "key_source", "fingerprint"} <= fail.item.keys()
    assert {name: begin.item.get(name) for name in fail.item} | {"not_invoked": True} == fail.item


def test_a_claim_that_others_are_making_while_it_is_given_back_is_given_back_later() -> None:
    asked, _ = refused(
        KeyboardInterrupt, guarded(ASKING, Exact()), KeyboardInterrupt(), {"owned": False, "known": False}, True
    )
    assert functions(asked) == ["begin", "fail", "Keep"]
    assert asked[2].ask == asked[1]


@pytest.mark.parametrize("on_ledger_down", ["refuse", "continue"])
@pytest.mark.parametrize("error", [LedgerUnavailable("no answer"), RuntimeError()])
def test_an_interruption_goes_on_even_if_the_claim_can_only_be_given_back_later(
    on_ledger_down: str, error: Exception
) -> None:
    made = asking(Rule("refund", on_ledger_down=on_ledger_down))
    asked, _ = refused(asyncio.CancelledError, guarded(made, Exact()), asyncio.CancelledError(), error, True)
    assert functions(asked) == ["begin", "fail", "Keep"]
    assert asked[2].ask == asked[1]


def test_interrupted_while_waiting_there_is_no_claim_to_give_back() -> None:
    replies = [in_progress(0), None, in_progress(0), KeyboardInterrupt()]
    asked, _ = refused(KeyboardInterrupt, admitted(ASKING), *replies)
    assert functions(asked) == ["begin", "Listen", "begin", "Wait"]


@pytest.mark.parametrize("replies", [[], [in_progress(0)], [RUN]])
def test_steps_that_nobody_drives_any_more_just_end(replies: list[Any]) -> None:
    steps = guarded(ASKING, Exact())
    next(steps)
    for reply in replies:
        steps.send(reply)
    steps.close()
