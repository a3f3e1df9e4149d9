"""Stopping calls: one sentence each."""

from __future__ import annotations

import pytest
from protocol import ASK, CHAT, RETRY, Protocol, approved, eur, failed, item, pending, running, succeeded, unknown

STOPPED = {"stopped": {"match": "ref*", "reason": "the file says so"}}


def stop(acme: Protocol, match: str = "refund", allowed: bool = False, reason: str | None = "bank is down") -> None:
    acme.apply(switches=[{"match": match, "allowed": allowed, "reason": reason}])


def test_a_stopped_call_is_refused_and_told_why_and_by_whom(acme: Protocol) -> None:
    acme.budget("eur", 100)
    stop(acme)
    refused = acme.begin("a", **eur(60))
    assert {name: refused[name] for name in ("verdict", "switch", "reason", "by", "version", "attempt")} == {
        "verdict": "unauthorized",
        "switch": "refund",
        "reason": "bank is down",
        "by": "ops",
        "version": 1,
        "attempt": 0,
    }
    assert acme.call("a")["state"] == "refused"
    assert acme.call("a")["refusal"]["reason"] == "bank is down"
    assert acme.balance("eur") == (0, 0)


def test_a_stopped_call_may_run_when_it_is_allowed_again(acme: Protocol) -> None:
    stop(acme)
    acme.begin("a")
    stop(acme, allowed=True)
    assert acme.begin("a")["verdict"] == "run"
    assert [change["after"]["allowed"] for change in acme.history("switch_changed")] == [False, True]


@pytest.mark.parametrize(
    ("match", "fields", "verdict"),
    [
        ("*", {}, "unauthorized"),
        ("ref*", {}, "unauthorized"),
        ("r_fund", {}, "run"),
        ("mail", {}, "run"),
        ("gpt*", CHAT, "unauthorized"),
        ("refund", CHAT, "run"),
    ],
)
def test_a_switch_stops_the_tools_and_models_it_names(acme: Protocol, match, fields, verdict) -> None:
    stop(acme, match)
    assert acme.begin("a", **fields)["verdict"] == verdict


def test_a_switch_of_another_tenant_stops_nothing(acme: Protocol, other: Protocol) -> None:
    stop(other, "*")
    assert acme.begin("a")["verdict"] == "run"


def test_of_several_switches_the_first_by_name_is_told(acme: Protocol) -> None:
    stop(acme, "refund", reason="one")
    stop(acme, "ref*", reason="two")
    assert acme.begin("a")["reason"] == "two"


def test_what_runs_ends_as_it_would(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun = running(acme, **eur(60))
    stop(acme)
    assert acme.begin("a")["verdict"] == "in_progress"
    assert acme.begin("a", attempt_id=begun["attempt_id"])["verdict"] == "run"
    assert acme.settle("a", begun)
    assert acme.balance("eur") == (60, 0)


def test_what_succeeded_before_is_replayed(acme: Protocol) -> None:
    succeeded(acme)
    stop(acme)
    assert acme.begin("a")["verdict"] == "replay"


@pytest.mark.parametrize("past", [failed, unknown, succeeded, pending, approved])
def test_a_stop_keeps_the_past_of_a_call(acme: Protocol, past) -> None:
    past(acme)
    if past is unknown:
        acme.begin("a")
    stop(acme, "*")
    before = acme.call("a")
    assert acme.begin("a", **RETRY, replay_for_s=0)["verdict"] == "unauthorized"
    assert acme.call("a") == before
    assert acme.last_event("a")["event"] == "refused"


def test_a_yes_waits_until_the_switch_is_on_again(acme: Protocol) -> None:
    approved(acme)
    stop(acme)
    assert acme.begin("a", **ASK)["verdict"] == "unauthorized"
    stop(acme, allowed=True)
    assert acme.begin("a", **ASK)["verdict"] == "run"


def test_nobody_is_asked_about_a_call_that_is_stopped(acme: Protocol) -> None:
    stop(acme)
    assert acme.begin("a", **ASK)["verdict"] == "unauthorized"
    assert acme.approvals("a") == []


def test_what_a_stopped_call_holds_it_still_holds_also_in_a_batch(acme: Protocol) -> None:
    acme.budget("eur", 100)
    unknown(acme, **eur(60))
    stop(acme)
    answers = acme.ask(
        "begin", [item("b", tool="x", **eur(30)), item("a", **RETRY, **eur(60)), item("c", tool="x", **eur(11))]
    )
    assert [answer["verdict"] for answer in answers] == ["run", "unauthorized", "budget_exceeded"]
    assert acme.balance("eur") == (0, 90)


def test_the_programs_own_file_can_stop_a_call_too(acme: Protocol) -> None:
    refused = acme.begin("a", **STOPPED)
    assert (refused["verdict"], refused["switch"], refused["reason"]) == ("unauthorized", "ref*", "the file says so")
    assert acme.begin("a")["verdict"] == "run"


def test_the_programs_own_file_cannot_allow_what_the_ledger_stops(acme: Protocol) -> None:
    stop(acme, "*", reason=None)
    assert acme.begin("a")["reason"] is None
    assert acme.begin("a", **STOPPED)["reason"] == "the file says so"


def test_an_exception_that_stands_before_a_switch_is_left_alone_by_it(acme: Protocol) -> None:
    acme.apply(switches=[{"match": "*", "allowed": False, "reason": None, "except": ["mail_*"]}])
    assert acme.begin("a")["verdict"] == "unauthorized"
    assert acme.begin("b", tool="mail_send")["verdict"] == "run"
