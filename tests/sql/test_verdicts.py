"""What `begin` answers, and what each event makes of a call: the table of states, one sentence each."""

from __future__ import annotations

import pytest
from protocol import PROBE, RETRY, Protocol, failed, key_of, new_attempt, running, succeeded, unknown

# begin


def test_the_first_to_begin_runs(acme: Protocol) -> None:
    begun = acme.begin("a")
    assert (begun["verdict"], begun["attempt"], begun["attempts"]) == ("run", 1, 1)
    assert acme.call("a")["state"] == "in_flight"


def test_the_second_to_begin_is_told_that_it_runs_and_for_how_long_at_most(acme: Protocol) -> None:
    running(acme, lease_s=60)
    second = acme.begin("a")
    assert second["verdict"] == "in_progress"
    assert 50 < second["left_s"] <= 60


def test_a_begin_asked_again_gives_the_same_answer(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.budget("count", 5, "calls")
    asked = {"attempt_id": new_attempt(), "reserve": {"calls": 1, "EUR": 40}}
    first, again = acme.begin("a", **asked), acme.begin("a", **asked)
    assert again.pop("again")
    for volatile in ("now_s", "original", "arguments_differ"):
        first.pop(volatile, None), again.pop(volatile, None)
    assert again == first
    assert acme.balance("eur") == (0, 40)


def test_a_success_is_replayed_with_its_result_and_its_trace(acme: Protocol) -> None:
    succeeded(acme, trace_id="t" * 32, span_id="s" * 16)
    replay = acme.begin("a")
    assert (replay["verdict"], replay["result"], replay["result_kept"]) == ("replay", '"done"', True)
    assert replay["original"] == {"trace_id": "t" * 32, "span_id": "s" * 16}


def test_a_success_whose_result_was_not_kept_says_so(acme: Protocol) -> None:
    begun = running(acme)
    acme.settle("a", begun, result=None, result_kept=False)
    assert acme.begin("a")["result_kept"] is False


def test_a_settle_that_says_nothing_of_a_result_keeps_none(acme: Protocol) -> None:
    begun = running(acme)
    assert acme.ask("settle", [{"key": key_of("a"), "attempt_id": begun["attempt_id"]}]) == [{"owned": True}]
    assert acme.begin("a")["result_kept"] is False


def test_a_success_is_replayed_while_it_is_young_enough(acme: Protocol) -> None:
    succeeded(acme)
    acme.ended_ago("a", 59)
    assert acme.begin("a", replay_for_s=60)["verdict"] == "replay"


def test_after_replay_for_s_a_new_generation_runs_and_the_old_result_is_in_history(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun = running(acme, reserve={"calls": 1, "EUR": 30})
    acme.settle("a", begun)
    acme.ended_ago("a", 61)
    again = acme.begin("a", replay_for_s=60, reserve={"calls": 1, "EUR": 50})
    assert (again["verdict"], again["attempt"]) == ("run", 2)
    assert acme.balance("eur") == (30, 50)
    assert acme.last_event("a")["detail"]["result"] == '"done"'
    assert acme.call("a")["result"] is None


def test_other_arguments_under_the_same_key_are_replayed_and_reported(acme: Protocol) -> None:
    succeeded(acme)
    replay = acme.begin("a", fingerprint=key_of("other arguments"))
    assert (replay["verdict"], replay["arguments_differ"]) == ("replay", True)
    assert acme.begin("a")["arguments_differ"] is False


def test_unknown_arguments_do_not_differ(acme: Protocol) -> None:
    succeeded(acme)
    assert acme.begin("a", fingerprint=None, on_mismatch="refuse")["arguments_differ"] is False


@pytest.mark.parametrize("past", [running, unknown, failed, succeeded])
def test_other_arguments_under_the_same_key_are_refused_where_the_rule_forbids_them(acme: Protocol, past) -> None:
    past(acme)
    before = acme.call("a")
    other = {"fingerprint": key_of("other arguments"), "on_mismatch": "refuse", "on_unknown": "retry"}
    assert acme.begin("a", **other)["verdict"] == "key_reused"
    assert acme.call("a") == before


def test_the_same_key_of_another_tenant_is_another_call(acme: Protocol, other: Protocol) -> None:
    succeeded(acme)
    assert other.begin("a")["verdict"] == "run"
    assert other.settle("a", {"attempt_id": acme.call("a")["attempt_id"]}) is False
    assert other.call("a")["state"] == "in_flight"


# after a failure


def test_after_a_definite_failure_a_new_attempt_runs(acme: Protocol) -> None:
    failed(acme)
    again = acme.begin("a")
    assert (again["verdict"], again["attempt"], again["attempts"]) == ("run", 2, 2)
    assert acme.last_event("a")["detail"]["error"] == {"type": "E", "message": "no"}
    assert acme.call("a")["error"] is None


def test_after_attempts_max_the_failure_is_given_back(acme: Protocol) -> None:
    for attempt in (1, 2):
        begun = acme.begin("a", attempts_max=2)
        assert (begun["verdict"], begun["attempts"]) == ("run", attempt)
        acme.fail("a", begun)
    third = acme.begin("a", attempts_max=2)
    assert (third["verdict"], third["attempts"], third["error"]["message"]) == ("failed", 2, "no")


def test_on_failure_replay_gives_the_failure_back_at_once(acme: Protocol) -> None:
    failed(acme)
    assert acme.begin("a", on_failure="replay")["error"] == {"type": "E", "message": "no"}


def test_an_attempt_that_provably_never_started_does_not_count(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun = running(acme, reserve={"calls": 1, "EUR": 100})
    assert acme.fail("a", begun, not_invoked=True)
    assert acme.balance("eur") == (0, 0)
    again = acme.begin("a", attempts_max=1)
    assert (again["verdict"], again["attempt"], again["attempts"]) == ("run", 2, 1)


def test_not_invoked_false_is_an_ordinary_failure(acme: Protocol) -> None:
    begun = running(acme)
    acme.fail("a", begun, not_invoked=False)
    assert acme.call("a")["attempts"] == 1


def test_a_failure_reported_again_changes_nothing(acme: Protocol) -> None:
    begun = failed(acme)
    before = acme.call("a")
    assert acme.fail("a", begun, error={"type": "F", "message": "other"}, not_invoked=True)
    assert acme.call("a") == before


def test_a_success_cannot_be_turned_into_a_failure(acme: Protocol) -> None:
    begun = succeeded(acme)
    assert acme.fail("a", begun) is False
    assert acme.call("a")["state"] == "succeeded"
    assert acme.events("a") == ["late_failure"]


# outcome unknown


def test_a_call_whose_lease_is_over_is_unknown_to_who_looks_and_to_who_begins(acme: Protocol) -> None:
    unknown(acme)
    assert acme.call("a")["state"] == "unknown"
    assert acme.events("a") == []
    assert acme.begin("a")["verdict"] == "outcome_unknown"
    assert acme.events("a") == ["lease_over"]


def test_an_ambiguous_failure_leaves_the_call_unknown_and_its_money_held(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun = running(acme, reserve={"calls": 1, "EUR": 60})
    assert acme.fail("a", begun, outcome_unknown=True)
    assert acme.balance("eur") == (0, 60)
    assert "probe" not in acme.begin("a")
    assert acme.begin("b", reserve={"calls": 1, "EUR": 60})["verdict"] == "budget_exceeded"


def test_an_unknown_call_can_still_fail_for_certain(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun = running(acme, reserve={"calls": 1, "EUR": 60})
    acme.fail("a", begun, outcome_unknown=True)
    assert acme.fail("a", begun)
    assert (acme.call("a")["state"], acme.balance("eur")) == ("failed", (0, 0))


def test_a_late_settle_of_the_current_attempt_is_the_truth(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun = unknown(acme, reserve={"calls": 1, "EUR": 60})
    assert acme.begin("a")["verdict"] == "outcome_unknown"
    assert acme.settle("a", begun)
    assert (acme.call("a")["state"], acme.balance("eur")) == ("succeeded", (60, 0))


def test_on_unknown_retry_runs_a_new_attempt_which_takes_over_what_was_held(acme: Protocol) -> None:
    acme.budget("eur", 100)
    unknown(acme, reserve={"calls": 1, "EUR": 60})
    again = acme.begin("a", **RETRY, reserve={"calls": 1, "EUR": 80})
    assert (again["verdict"], again["attempt"], again["attempts"]) == ("run", 2, 2)
    assert acme.balance("eur") == (0, 80)


# probes


def test_of_two_probes_at_once_one_looks_and_the_other_waits(acme: Protocol) -> None:
    unknown(acme)
    assert acme.begin("a", **PROBE)["probe"]
    second = acme.begin("a", **PROBE)
    assert second["verdict"] == "in_progress"
    assert 20 < second["left_s"] <= 30


def test_a_probe_whose_answer_was_lost_is_asked_for_again(acme: Protocol) -> None:
    unknown(acme)
    asked = PROBE | {"attempt_id": new_attempt()}
    assert acme.begin("a", **asked)["probe"]
    assert acme.begin("a", **asked)["probe"]


def test_a_probe_that_died_makes_room_for_another(acme: Protocol) -> None:
    unknown(acme)
    acme.begin("a", **PROBE)
    acme.lease_over("a")
    assert acme.begin("a", **PROBE)["probe"]


def test_a_probe_that_could_not_tell_makes_room_at_once(acme: Protocol) -> None:
    unknown(acme)
    acme.begin("a", **PROBE)
    assert acme.resolve("a", "unknown", attempt=1)["done"]
    assert acme.begin("a", **PROBE)["probe"]


# resolve


@pytest.mark.parametrize(
    ("outcome", "state", "balance", "verdict"),
    [
        ("succeeded", "succeeded", (60, 0), "replay"),
        ("failed", "failed", (0, 0), "run"),
        ("retry", "reopened", (0, 60), "run"),
    ],
)
def test_a_person_resolves_an_unknown_call(acme: Protocol, outcome, state, balance, verdict) -> None:
    acme.budget("eur", 100)
    unknown(acme, reserve={"calls": 1, "EUR": 60})
    assert acme.resolve("a", outcome, result='"found"', result_kept=True) == {"done": True, "state": state}
    assert acme.balance("eur") == balance
    event = acme.last_event("a")
    assert (event["event"], event["by_name"], event["detail"]["outcome"]) == ("resolved", "ops", outcome)
    assert acme.begin("a", reserve={"calls": 1, "EUR": 60})["verdict"] == verdict
    assert acme.balance("eur") == ((60, 0) if verdict == "replay" else (0, 60))


def test_what_a_person_found_is_what_is_replayed(acme: Protocol) -> None:
    unknown(acme)
    acme.resolve("a", "succeeded", result='"found"', result_kept=True)
    assert acme.begin("a")["result"] == '"found"'


def test_a_call_resolved_as_failed_gives_the_reason_as_its_error(acme: Protocol) -> None:
    unknown(acme)
    acme.resolve("a", "failed", reason="no trace at the bank")
    assert acme.begin("a", on_failure="replay")["error"]["message"] == "no trace at the bank"


def test_a_final_failure_can_be_reopened(acme: Protocol) -> None:
    failed(acme)
    assert acme.begin("a", attempts_max=1)["verdict"] == "failed"
    assert acme.resolve("a", "retry")["done"]
    assert acme.begin("a", attempts_max=1)["verdict"] == "run"


@pytest.mark.parametrize(("past", "state"), [(running, "in_flight"), (succeeded, "succeeded"), (failed, "failed")])
def test_what_is_known_is_not_resolved(acme: Protocol, past, state) -> None:
    past(acme)
    assert acme.resolve("a", "succeeded") == {"done": False, "state": state}
    assert acme.call("a")["state"] == state


def test_a_call_that_nobody_began_is_not_resolved(acme: Protocol) -> None:
    assert acme.resolve("nobody", "failed") == {"done": False, "state": None}


def test_a_slow_probe_does_not_judge_a_newer_attempt(acme: Protocol) -> None:
    unknown(acme)
    running(acme, **RETRY)
    acme.lease_over("a")
    assert acme.resolve("a", "failed", attempt=1)["done"] is False
    assert acme.resolve("a", "failed", attempt=2)["done"]
