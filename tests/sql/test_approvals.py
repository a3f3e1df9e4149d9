"""When a person has to say yes: what is asked, what an answer is worth, and for how long. One sentence each."""

from __future__ import annotations

import pytest
from protocol import (
    ASK,
    RETRY,
    Protocol,
    approved,
    cancelled,
    consumed,
    denied,
    eur,
    expired,
    failed,
    item,
    key_of,
    new_attempt,
    pending,
    running,
    succeeded,
)

OTHER_ARGUMENTS = {"fingerprint": key_of("other arguments"), "arguments": '{"amount": 9999}'}
COVERED = ASK | {"approval_covers_retries": True}
OVER_50 = {"approval": {"unit": "EUR", "steps": 50}}


def states(acme: Protocol, name: str = "a") -> list[str]:
    return [request["state"] for request in acme.approvals(name)]


# asking


def test_a_call_that_needs_a_persons_consent_does_not_run_and_holds_nothing(acme: Protocol) -> None:
    acme.budget("eur", 100)
    asked = acme.begin("a", **ASK, **eur(60), approval_timeout_s=90)
    assert (asked["verdict"], asked["requested"], asked["attempt"], asked["attempts"]) == (
        "awaiting_approval",
        True,
        0,
        0,
    )
    assert asked["left_s"] == 90
    assert (acme.call("a")["state"], acme.balance("eur")) == ("pending", (0, 0))


def test_a_request_shows_what_is_asked_by_whom_and_until_when(acme: Protocol) -> None:
    asked = acme.begin(
        "a", **ASK, **eur(60), arguments='{"amount": 60}', agent="support", actor="u_42", rule="ref*", workflow_id="w-1"
    )
    (request,) = acme.approvals("a")
    assert {name: request[name] for name in ("id", "state", "tool", "arguments", "agent", "actor", "rule")} == {
        "id": asked["approval_id"],
        "state": "pending",
        "tool": "refund",
        "arguments": '{"amount": 60}',
        "agent": "support",
        "actor": "u_42",
        "rule": "ref*",
    }
    assert (request["workflow_id"], request["reserve"]["EUR"]) == ("w-1", 60)
    assert request["fingerprint"] == key_of("arguments of a")
    assert request["expires_at"] > request["requested_at"]
    assert acme.call("a")["approval_id"] == asked["approval_id"]


def test_who_begins_while_a_person_is_asked_waits_for_the_same_answer(acme: Protocol) -> None:
    asked = pending(acme, approval_timeout_s=90)
    again = acme.begin("a", **ASK)
    assert (again["verdict"], again["approval_id"]) == ("awaiting_approval", asked["approval_id"])
    assert 80 < again["left_s"] <= 90
    assert len(acme.approvals("a")) == 1


def test_only_the_begin_that_asked_is_told_so_also_when_its_answer_was_lost(acme: Protocol) -> None:
    mine = ASK | {"attempt_id": new_attempt()}
    assert acme.begin("a", **mine)["requested"]
    assert acme.begin("a", **ASK)["requested"] is False
    assert acme.begin("a", **mine)["requested"]


def test_a_request_stands_even_if_the_program_needs_no_consent_any_more(acme: Protocol) -> None:
    pending(acme)
    assert acme.begin("a")["verdict"] == "awaiting_approval"


@pytest.mark.parametrize(
    ("reserve", "verdict"),
    [
        ({"EUR": 50}, "run"),
        ({"EUR": 51}, "awaiting_approval"),
        ({}, "awaiting_approval"),
        ({"USD": 1}, "awaiting_approval"),
        ({"GBP": 50}, "run"),
        ({"GBP": 51}, "awaiting_approval"),
        ({"tokens": 1}, "awaiting_approval"),
    ],
)
def test_consent_over_an_amount_is_needed_where_it_is_exceeded_or_nobody_can_tell(acme, reserve, verdict) -> None:
    acme.rate("GBP", "EUR", "1")
    assert acme.begin("a", **OVER_50, reserve={"calls": 1} | reserve)["verdict"] == verdict


def test_nobody_is_asked_about_arguments_that_are_not_shown(acme: Protocol) -> None:
    refused = acme.begin("a", **ASK, fingerprint=None)
    assert refused["verdict"] == "unauthorized"
    assert "nobody can approve" in refused["reason"]
    assert (acme.call("a")["state"], acme.approvals("a")) == ("refused", [])


def test_a_refused_call_can_still_ask(acme: Protocol) -> None:
    acme.budget("eur", 10)
    acme.begin("a", **eur(11))
    assert acme.begin("a", **ASK, **eur(11))["verdict"] == "awaiting_approval"


def test_the_past_of_a_call_is_in_history_when_a_person_is_asked(acme: Protocol) -> None:
    failed(acme)
    pending(acme)
    assert acme.last_event("a")["detail"]["error"] == {"type": "E", "message": "no"}
    assert (acme.call("a")["attempt"], acme.call("a")["attempts"]) == (1, 1)


# yes


def test_after_a_yes_the_call_runs_once_and_says_which_request_allowed_it(acme: Protocol) -> None:
    acme.budget("eur", 100)
    asked = approved(acme, **eur(60))
    assert acme.call("a")["state"] == "approved"
    assert acme.balance("eur") == (0, 0)
    begun = acme.begin("a", **ASK, **eur(60))
    assert (begun["verdict"], begun["attempt"], begun["approval_id"]) == ("run", 1, asked["approval_id"])
    assert (states(acme), acme.balance("eur")) == (["consumed"], (0, 60))
    assert acme.approvals("a")[0]["consumed_by"] == begun["attempt_id"]
    assert acme.begin("a", **ASK)["verdict"] == "in_progress"


def test_a_begin_asked_again_still_says_which_request_allowed_it(acme: Protocol) -> None:
    asked = approved(acme)
    mine = ASK | {"attempt_id": new_attempt()}
    assert acme.begin("a", **mine)["verdict"] == "run"
    again = acme.begin("a", **mine)
    assert (again["verdict"], again["approval_id"]) == ("run", asked["approval_id"])


def test_who_said_yes_and_what_they_said_is_kept(acme: Protocol) -> None:
    asked = pending(acme)
    assert acme.approve(asked, by="ops@example.com", note="checked") == {
        "done": True,
        "state": "approved",
        "by": "ops@example.com",
    }
    (request,) = acme.approvals("a")
    assert (request["by_name"], request["note"]) == ("ops@example.com", "checked")
    assert request["by_role"] is not None
    event = acme.last_event("a")
    assert (event["event"], event["by_name"]) == ("approved", "ops@example.com")
    assert event["detail"]["fingerprint"] == request["fingerprint"]


def test_a_success_is_replayed_without_asking(acme: Protocol) -> None:
    acme.settle("a", consumed(acme))
    assert acme.begin("a", **ASK)["verdict"] == "replay"


def test_a_new_generation_is_asked_about_anew(acme: Protocol) -> None:
    acme.settle("a", consumed(acme))
    assert acme.begin("a", **COVERED, replay_for_s=0)["verdict"] == "awaiting_approval"
    assert states(acme) == ["consumed", "pending"]
    assert acme.call("a")["attempts"] == 0


def test_a_yes_without_the_budget_for_it_is_kept_until_there_is(acme: Protocol) -> None:
    acme.budget("eur", 50)
    approved(acme, **eur(60))
    refused = acme.begin("a", **ASK, **eur(60))
    assert (refused["verdict"], refused["remaining"]) == ("budget_exceeded", 50)
    assert (acme.call("a")["state"], states(acme), acme.balance("eur")) == ("approved", ["approved"], (0, 0))
    acme.top_up("eur", "EUR", 10)
    assert acme.begin("a", **ASK, **eur(60))["verdict"] == "run"


def test_a_yes_has_no_end(acme: Protocol) -> None:
    approved(acme)
    acme.answer_due("a")
    assert acme.begin("a", **ASK)["verdict"] == "run"


# exactly these arguments


@pytest.mark.parametrize("past", [pending, approved])
def test_other_arguments_under_the_same_key_are_asked_about_anew(acme: Protocol, past) -> None:
    first = past(acme)
    second = acme.begin("a", **ASK, **OTHER_ARGUMENTS)
    assert (second["verdict"], second["requested"]) == ("awaiting_approval", True)
    assert second["approval_id"] != first["approval_id"]
    assert states(acme) == ["superseded", "pending"]
    assert acme.approvals("a")[1]["arguments"] == OTHER_ARGUMENTS["arguments"]
    assert acme.approve(first) == {"done": False, "state": "superseded", "by": "boss" if past is approved else None}
    assert acme.begin("a", **ASK, **OTHER_ARGUMENTS)["verdict"] == "awaiting_approval"


@pytest.mark.parametrize("past", [pending, approved])
def test_other_arguments_are_asked_about_even_where_the_rule_would_not(acme: Protocol, past) -> None:
    past(acme)
    assert acme.begin("a", **OTHER_ARGUMENTS)["verdict"] == "awaiting_approval"


def test_a_yes_to_the_second_arguments_is_no_yes_to_the_first(acme: Protocol) -> None:
    pending(acme)
    acme.approve(acme.begin("a", **ASK, **OTHER_ARGUMENTS))
    assert acme.begin("a", **ASK)["verdict"] == "awaiting_approval"
    assert states(acme) == ["superseded", "superseded", "pending"]


@pytest.mark.parametrize("past", [pending, approved])
def test_other_arguments_are_refused_and_the_request_stands_where_the_rule_forbids_them(acme, past) -> None:
    past(acme)
    before = acme.call("a")
    assert acme.begin("a", **ASK, **OTHER_ARGUMENTS, on_mismatch="refuse")["verdict"] == "key_reused"
    assert acme.call("a") == before


def test_hidden_arguments_do_not_run_on_a_yes_to_shown_ones(acme: Protocol) -> None:
    approved(acme)
    assert acme.begin("a", **ASK, fingerprint=None)["verdict"] == "unauthorized"
    assert states(acme) == ["approved"]


# single use


def test_a_failure_uses_a_yes_up(acme: Protocol) -> None:
    acme.fail("a", consumed(acme))
    asked = acme.begin("a", **ASK)
    assert (asked["verdict"], asked["requested"], asked["attempts"]) == ("awaiting_approval", True, 1)
    assert states(acme) == ["consumed", "pending"]


def test_a_yes_covers_retries_where_the_rule_says_so(acme: Protocol) -> None:
    acme.fail("a", consumed(acme))
    again = acme.begin("a", **COVERED)
    assert (again["verdict"], again["attempt"], again["attempts"]) == ("run", 2, 2)
    acme.fail("a", again, not_invoked=True)
    assert acme.begin("a", **COVERED)["verdict"] == "run"


def test_a_retry_that_was_not_used_gives_no_yes_back_that_another_attempt_used(acme: Protocol) -> None:
    acme.fail("a", consumed(acme))
    acme.fail("a", acme.begin("a", **COVERED), not_invoked=True)
    assert (acme.call("a")["state"], states(acme)) == ("failed", ["consumed"])
    assert acme.begin("a", **ASK)["verdict"] == "awaiting_approval"


def test_a_yes_covers_no_retries_with_other_arguments(acme: Protocol) -> None:
    acme.fail("a", consumed(acme))
    assert acme.begin("a", **COVERED | OTHER_ARGUMENTS)["verdict"] == "awaiting_approval"


def test_a_yes_covers_no_retries_of_a_later_generation(acme: Protocol) -> None:
    acme.settle("a", consumed(acme))
    acme.fail("a", acme.begin("a", replay_for_s=0))
    assert acme.begin("a", **COVERED)["verdict"] == "awaiting_approval"


def test_a_claim_that_was_not_used_gives_the_yes_back(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun = consumed(acme, **eur(60))
    assert [acme.fail("a", begun, not_invoked=True), acme.fail("a", begun, not_invoked=True)] == [True, True]
    assert (acme.call("a")["state"], states(acme), acme.balance("eur")) == ("approved", ["approved"], (0, 0))
    assert acme.call("a")["attempts"] == 0
    again = acme.begin("a", **ASK, **eur(60))
    assert (again["verdict"], again["attempt"], again["attempts"]) == ("run", 2, 1)


def test_a_success_after_its_yes_was_given_back_is_the_truth_and_used_it(acme: Protocol) -> None:
    begun = consumed(acme)
    acme.fail("a", begun, not_invoked=True)
    assert acme.settle("a", begun)
    assert (acme.call("a")["state"], states(acme)) == ("succeeded", ["consumed"])


def test_who_asked_and_was_interrupted_leaves_the_request_open(acme: Protocol) -> None:
    asked = pending(acme)
    assert acme.fail("a", asked, not_invoked=True) is False
    assert (acme.call("a")["state"], acme.events("a")) == ("pending", [])


# the outcome is unknown


@pytest.mark.parametrize("judged", [False, True])
def test_what_a_person_allowed_and_may_have_happened_is_not_asked_about_again(acme: Protocol, judged) -> None:
    acme.budget("eur", 100)
    consumed(acme, **eur(60))
    acme.lease_over("a")
    if judged:
        acme.begin("a")
    assert acme.begin("a", **ASK, **RETRY, **eur(60))["verdict"] == "outcome_unknown"
    assert (acme.call("a")["state"], states(acme), acme.balance("eur")) == ("unknown", ["consumed"], (0, 60))


def test_where_a_yes_covers_retries_so_it_does_after_an_unknown_outcome(acme: Protocol) -> None:
    consumed(acme)
    acme.lease_over("a")
    assert acme.begin("a", **COVERED)["verdict"] == "outcome_unknown"
    assert acme.begin("a", **COVERED, **RETRY)["verdict"] == "run"


def test_a_reopened_call_is_asked_about_anew_and_gives_back_what_it_held(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun = consumed(acme, **eur(60))
    acme.fail("a", begun, outcome_unknown=True)
    acme.resolve("a", "retry")
    assert acme.balance("eur") == (0, 60)
    assert acme.begin("a", **ASK, **eur(60))["verdict"] == "awaiting_approval"
    assert acme.balance("eur") == (0, 0)


def test_accounts_stay_exact_when_a_reopened_call_asks_in_a_batch_with_others(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.budget("count", 9, "calls")
    acme.fail("b", acme.begin("b", **eur(60)), outcome_unknown=True)
    acme.resolve("b", "retry")
    answers = acme.ask(
        "begin",
        [
            item("a", **eur(30)),
            item("dear", **eur(11)),
            item("b", **ASK, **eur(60)),
            item("c", **eur(50)),
            item("d", **ASK, **eur(5)),
            item("e", **eur(21)),
            item("f", **eur(20)),
        ],
    )
    assert [answer["verdict"] for answer in answers] == [
        "run",
        "budget_exceeded",
        "awaiting_approval",
        "run",
        "awaiting_approval",
        "budget_exceeded",
        "run",
    ]
    assert (acme.balance("eur"), acme.balance("count")) == ((0, 100), (0, 3))


# no


def test_a_no_is_final_under_the_key_and_says_who_and_why(acme: Protocol) -> None:
    asked = denied(acme)
    for terms in (ASK, {}, OTHER_ARGUMENTS):
        refused = acme.begin("a", **terms)
        assert (refused["verdict"], refused["by"], refused["reason"]) == ("denied", "boss", "too much")
        assert refused["approval_id"] == asked["approval_id"]
    assert (states(acme), acme.last_event("a")["event"]) == (["denied"], "denied")


def test_nobody_answers_in_time_and_that_is_final_too(acme: Protocol) -> None:
    asked = expired(acme)
    for _ in range(2):
        refused = acme.begin("a", **ASK)
        assert (refused["verdict"], refused["approval_id"]) == ("expired", asked["approval_id"])
        assert refused.get("by") is None
    assert (acme.call("a")["state"], states(acme), acme.events("a")) == ("expired", ["expired"], ["expired"])


def test_a_request_whose_time_is_over_shows_as_expired_before_anybody_asks(acme: Protocol) -> None:
    expired(acme)
    assert (acme.call("a")["state"], states(acme), acme.events("a")) == ("expired", ["expired"], [])
    assert acme.peek("a")["changed"]


def test_a_yes_after_the_time_is_over_is_too_late(acme: Protocol) -> None:
    asked = expired(acme)
    assert acme.approve(asked) == {"done": False, "state": "expired", "by": None}
    assert acme.begin("a", **ASK)["verdict"] == "expired"
    assert acme.events("a") == ["expired"]


def test_other_arguments_after_the_time_is_over_are_asked_about(acme: Protocol) -> None:
    expired(acme)
    assert acme.begin("a", **ASK, **OTHER_ARGUMENTS)["verdict"] == "awaiting_approval"


@pytest.mark.parametrize("past", [pending, approved])
def test_a_cancelled_call_can_no_longer_be_approved_or_run(acme: Protocol, past) -> None:
    asked = past(acme)
    assert acme.cancel("a", reason="not today") == {"done": True, "state": "cancelled"}
    assert acme.approve(asked)["done"] is False
    refused = acme.begin("a", **ASK)
    assert (refused["verdict"], refused["by"], refused["reason"]) == ("cancelled", "ops", "not today")
    assert states(acme) == ["cancelled"]


@pytest.mark.parametrize("past", [denied, expired, cancelled])
def test_an_operator_reopens_what_was_final_and_a_person_is_asked_anew(acme: Protocol, past) -> None:
    first = past(acme)
    assert acme.resolve("a", "retry") == {"done": True, "state": "reopened"}
    second = acme.begin("a", **COVERED)
    assert (second["verdict"], second["requested"]) == ("awaiting_approval", True)
    assert acme.approve(first)["done"] is False
    assert acme.approve(second)["done"]
    assert acme.begin("a", **ASK)["verdict"] == "run"


@pytest.mark.parametrize("past", [denied, expired, cancelled])
def test_what_was_final_runs_after_it_was_reopened_where_no_consent_is_needed(acme: Protocol, past) -> None:
    past(acme)
    acme.resolve("a", "retry")
    assert acme.begin("a")["verdict"] == "run"


@pytest.mark.parametrize("past", [pending, approved])
@pytest.mark.parametrize("outcome", ["retry", "failed", "succeeded", "unknown"])
def test_what_never_ran_has_no_outcome_to_resolve(acme: Protocol, past, outcome) -> None:
    past(acme)
    state = acme.call("a")["state"]
    assert acme.resolve("a", outcome) == {"done": False, "state": state}


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
@pytest.mark.parametrize("past", [denied, expired, cancelled])
def test_what_was_final_is_not_resolved_but_reopened(acme: Protocol, past, outcome) -> None:
    past(acme)
    assert acme.resolve("a", outcome)["done"] is False


# the first answer counts


def test_the_same_answer_again_is_no_news(acme: Protocol) -> None:
    asked = approved(acme)
    assert acme.approve(asked, by="somebody else") == {"done": True, "state": "approved", "by": "boss"}
    running(acme, **ASK)
    assert acme.approve(asked)["done"] is True
    assert acme.events("a").count("approved") == 1


@pytest.mark.parametrize("past", [approved, consumed])
def test_a_no_after_a_yes_comes_too_late(acme: Protocol, past) -> None:
    past(acme)
    (request,) = acme.approvals("a")
    answer = acme.deny({"approval_id": request["id"]})
    assert (answer["done"], answer["by"]) == (False, "boss")
    assert states(acme) == [request["state"]]


def test_a_yes_after_a_no_comes_too_late(acme: Protocol) -> None:
    asked = denied(acme)
    assert acme.approve(asked) == {"done": False, "state": "denied", "by": "boss"}
    assert acme.deny(asked)["done"] is True
    assert acme.begin("a", **ASK)["verdict"] == "denied"


@pytest.mark.parametrize("how", ["approve", "deny"])
def test_an_answer_to_a_request_that_is_not_there_says_so(acme: Protocol, other: Protocol, how) -> None:
    elsewhere = other.begin("a", **ASK)
    for id_ in (new_attempt(), elsewhere["approval_id"]):
        assert acme.ask(how, [{"id": id_, "by": "boss"}]) == [{"done": False, "state": None, "by": None}]
    assert other.call("a")["state"] == "pending"


# who may say yes


@pytest.mark.parametrize("by", ["u_42", "U_42", " u_42 ", "support"])
def test_who_asked_may_not_say_yes(acme: Protocol, by) -> None:
    asked = pending(acme, actor=" u_42", agent="Support")
    assert acme.approve(asked, by=by) == {"done": False, "state": "pending", "self": True}
    assert states(acme) == ["pending"]
    assert acme.approve(asked, by="boss")["done"]


def test_who_asked_may_say_yes_where_the_rule_allows_it(acme: Protocol) -> None:
    asked = pending(acme, actor="u_42", self_approval=True)
    assert acme.approve(asked, by="u_42")["done"]


def test_who_asked_may_say_no(acme: Protocol) -> None:
    asked = pending(acme, actor="u_42")
    assert acme.deny(asked, by="u_42")["done"]


def test_a_request_of_nobody_in_particular_can_be_approved(acme: Protocol) -> None:
    assert acme.approve(pending(acme), by="u_42")["done"]


# batches


def test_a_batch_of_answers_comes_in_the_order_of_its_items(acme: Protocol) -> None:
    asked = {name: acme.begin(name, **ASK, actor="u_42") for name in ("c", "a", "b", "d")}
    acme.answer_due("d")
    ids = [{"id": asked[name]["approval_id"], "by": "boss"} for name in ("c", "a", "d", "c")]
    mine = {"id": asked["b"]["approval_id"], "by": "u_42"}
    stray = {"id": new_attempt(), "by": "boss"}
    answers = acme.ask("approve", [ids[0], stray, mine, *ids[1:]])
    assert [(answer["done"], answer["state"]) for answer in answers] == [
        (True, "approved"),
        (False, None),
        (False, "pending"),
        (True, "approved"),
        (False, "expired"),
        (True, "approved"),
    ]
    assert [acme.call(name)["state"] for name in ("a", "b", "c", "d")] == ["approved", "pending", "approved", "expired"]
    assert acme.ask("deny", [ids[0], mine])[1]["done"]


def test_an_empty_batch_of_answers_has_an_empty_answer(acme: Protocol) -> None:
    assert [acme.ask(function, []) for function in ("approve", "deny", "cancel", "probed", "peek")] == [[]] * 5


def test_a_batch_of_begins_asks_for_each_that_needs_it(acme: Protocol) -> None:
    approved(acme)
    answers = acme.ask("begin", [item("b", **ASK), item("c"), item("a", **ASK), item("b", **ASK)])
    assert [answer["verdict"] for answer in answers] == ["awaiting_approval", "run", "run", "in_progress"]
    assert len(acme.approvals("b")) == 1


# money that left


def test_a_success_that_comes_while_a_person_is_asked_about_the_next_attempt_needs_no_other(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun = failed(acme, **eur(30))
    asked = pending(acme, **eur(30))
    assert acme.settle("a", begun)
    assert (acme.call("a")["state"], states(acme), acme.balance("eur")) == ("succeeded", ["cancelled"], (30, 0))
    assert acme.approve(asked)["done"] is False
    assert acme.begin("a", **ASK)["verdict"] == "replay"


def test_consent_to_a_call_that_succeeded_elsewhere_is_not_needed(acme: Protocol) -> None:
    succeeded(acme)
    assert acme.begin("a", **ASK)["verdict"] == "replay"


def test_while_somebody_waits_for_one_answer_the_same_key_with_other_arguments_waits_too(acme: Protocol) -> None:
    first = acme.begin("a", **ASK, wait_s=60)
    other = acme.begin("a", **ASK | OTHER_ARGUMENTS, wait_s=60)
    assert (other["verdict"], 50 < other["left_s"] <= 60) == ("in_progress", True)
    assert acme.begin("a", **ASK)["approval_id"] == first["approval_id"]
    acme.sql.execute("update spanledger.call set waited_until = clock_timestamp() where tenant = %s", (acme.tenant,))
    assert acme.begin("a", **ASK | OTHER_ARGUMENTS)["approval_id"] != first["approval_id"]
