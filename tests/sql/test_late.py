"""Attempts that come back after their call was taken over, ruled out or settled: one sentence each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from protocol import (
    CHAT,
    RETRY,
    Protocol,
    approved,
    denied,
    failed,
    item,
    key_of,
    new_attempt,
    pending,
    running,
    succeeded,
    unknown,
    until_blocked,
)


def late(acme: Protocol) -> tuple[dict, dict]:
    """An attempt whose call was taken over by another."""
    old = unknown(acme, reserve={"calls": 1, "EUR": 30})
    return old, running(acme, **RETRY, reserve={"calls": 1, "EUR": 50})


def test_a_late_success_is_never_the_result_but_its_money_is_spent(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.budget("count", 9, "calls")
    old, new = late(acme)
    assert acme.settle("a", old, result='"late"', cost={"EUR": 33}) is False
    assert (acme.balance("eur"), acme.balance("count")) == ((33, 50), (1, 1))
    event = acme.last_event("a")
    assert (event["event"], event["attempt"], event["attempt_id"]) == ("late_success", 1, old["attempt_id"])
    assert event["detail"] == {"result": '"late"', "cost": {"EUR": 33}}
    assert acme.settle("a", new)
    assert acme.balance("eur") == (83, 0)
    assert acme.begin("a")["result"] == '"done"'


def test_a_late_success_without_a_cost_spent_what_it_had_reserved(acme: Protocol) -> None:
    acme.budget("eur", 100)
    old, _ = late(acme)
    acme.settle("a", old)
    assert acme.balance("eur") == (30, 50)


def test_a_late_success_reported_again_is_spent_once(acme: Protocol) -> None:
    acme.budget("eur", 100)
    old, _ = late(acme)
    assert [acme.settle("a", old), acme.settle("a", old)] == [False, False]
    assert acme.balance("eur") == (30, 50)
    assert acme.events("a").count("late_success") == 1


def test_a_late_failure_is_recorded_and_costs_nothing(acme: Protocol) -> None:
    acme.budget("eur", 100)
    old, new = late(acme)
    assert acme.fail("a", old) is False
    assert acme.last_event("a")["event"] == "late_failure"
    assert acme.balance("eur") == (0, 50)
    assert acme.call("a")["attempt_id"] == new["attempt_id"]


def resolved(acme: Protocol) -> dict:
    begun = unknown(acme, reserve={"calls": 1, "EUR": 30})
    acme.resolve("a", "failed")
    return begun


def lost(acme: Protocol) -> dict:
    begun = running(acme, **CHAT, reserve={"calls": 1, "EUR": 30})
    acme.lease_over("a")
    acme.renew()
    return begun


def taken_over(acme: Protocol) -> dict:
    old, new = late(acme)
    assert acme.settle("a", new, cost={"EUR": 0})
    return old


@pytest.mark.parametrize("past", [resolved, lost, taken_over])
def test_what_a_failure_that_is_told_late_has_cost_is_spent_once_also_after_it_was_pruned(acme, past) -> None:
    acme.budget("eur", 100)
    old = past(acme)
    acme.prune()
    for _ in range(2):
        for _ in range(2):
            acme.fail("a", old, cost={"EUR": 10})
        assert acme.balance("eur") == (10, 0)
        acme.prune()


def test_a_failure_that_its_worker_has_told_is_spent_once_however_often_it_is_told(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun = running(acme, reserve={"calls": 1, "EUR": 30})
    for _ in range(2):
        acme.fail("a", begun, cost={"EUR": 10})
    running(acme)
    for _ in range(2):
        acme.fail("a", begun, cost={"EUR": 10})
        acme.prune()
    assert acme.balance("eur")[0] == 10


def resolve_as(outcome: str):
    return lambda acme: acme.resolve("a", outcome)


def retried(acme: Protocol) -> None:
    running(acme, **RETRY)


def cancelled(acme: Protocol) -> None:
    acme.cancel("a")


def run_again(acme: Protocol) -> None:
    acme.resolve("a", "retry")
    running(acme)


@pytest.mark.parametrize("then", [resolve_as("failed"), resolve_as("retry"), retried, cancelled, run_again])
@pytest.mark.parametrize("lease_over", [False, True])
def test_what_an_attempt_of_unknown_outcome_has_cost_is_spent_once_if_it_has_failed(acme, then, lease_over) -> None:
    acme.budget("eur", 100)
    doubt = {"cost": {"EUR": 10}, "outcome_unknown": True}
    begun = running(acme, reserve={"calls": 1, "EUR": 30})
    if lease_over:
        acme.lease_over("a")
        acme.begin("a")
    acme.fail("a", begun, **doubt)
    assert acme.balance("eur") == (0, 30)
    then(acme)
    assert acme.history("failure_spent") == [{"cost": {"EUR": 10}}]
    for _ in range(3):
        assert acme.balance("eur")[0] == 10
        acme.fail("a", begun, **doubt)
        acme.prune()


@pytest.mark.parametrize("then", ["cancel", "retry"])
def test_a_failure_that_is_told_again_after_a_person_has_spoken_is_spent_once(acme: Protocol, then) -> None:
    acme.budget("eur", 100)
    begun = running(acme, reserve={"calls": 1, "EUR": 30})
    acme.fail("a", begun, cost={"EUR": 7})
    if then == "cancel":
        acme.cancel("a")
    else:
        acme.resolve("a", "retry")
        acme.fail("a", running(acme))
    for _ in range(2):
        acme.fail("a", begun, cost={"EUR": 7})
        acme.prune()
    assert acme.balance("eur") == (7, 0)


def test_what_an_attempt_of_unknown_outcome_has_cost_is_what_it_has_cost_if_it_succeeded(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun = unknown(acme, reserve={"calls": 1, "EUR": 30})
    acme.begin("a")
    acme.fail("a", begun, cost={"EUR": 10}, outcome_unknown=True)
    acme.resolve("a", "succeeded")
    assert acme.balance("eur") == (10, 0)


def test_a_failure_that_is_told_after_a_late_success_of_the_same_attempt_costs_nothing_more(acme: Protocol) -> None:
    acme.budget("eur", 100)
    old, _ = late(acme)
    acme.settle("a", old, cost={"EUR": 30})
    acme.fail("a", old, cost={"EUR": 10})
    assert acme.balance("eur") == (30, 50)


def test_a_claim_given_back_too_late_leaves_no_trace(acme: Protocol) -> None:
    old, _ = late(acme)
    events = acme.events("a")
    assert acme.fail("a", old, not_invoked=True) is False
    assert acme.events("a") == events


@pytest.mark.parametrize("outcome", ["failed", "retry"])
def test_a_success_that_a_person_had_ruled_out_is_the_truth_while_nobody_ran_it_since(acme: Protocol, outcome) -> None:
    acme.budget("eur", 100)
    old = unknown(acme, reserve={"calls": 1, "EUR": 30})
    acme.resolve("a", outcome)
    assert acme.settle("a", old) is True
    assert acme.balance("eur") == (30, 0)
    assert acme.last_event("a")["event"] == "late_success"
    assert acme.begin("a")["verdict"] == "replay"


def test_a_success_that_a_person_had_ruled_out_is_spent_even_after_another_attempt_began(acme: Protocol) -> None:
    acme.budget("eur", 100)
    old = unknown(acme, reserve={"calls": 1, "EUR": 30})
    acme.resolve("a", "failed")
    running(acme, reserve={"calls": 1, "EUR": 50})
    assert acme.settle("a", old) is False
    assert acme.balance("eur") == (30, 50)


def test_a_success_after_ones_own_failure_is_the_truth_and_spent(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun = failed(acme, reserve={"calls": 1, "EUR": 30})
    assert acme.settle("a", begun, cost={"EUR": 20}) is True
    assert (acme.balance("eur"), acme.call("a")["state"]) == ((20, 0), "succeeded")


def test_a_success_that_was_settled_is_not_spent_again_in_the_next_generation(acme: Protocol) -> None:
    acme.budget("eur", 100)
    old = succeeded(acme, reserve={"calls": 1, "EUR": 30})
    running(acme, replay_for_s=0, reserve={"calls": 1, "EUR": 50})
    assert acme.settle("a", old) is False
    assert acme.balance("eur") == (30, 50)


def test_a_settle_asked_again_gives_the_same_answer_and_spends_once(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun = running(acme, reserve={"calls": 1, "EUR": 30})
    assert [acme.settle("a", begun, cost={"EUR": 40}), acme.settle("a", begun, cost={"EUR": 40})] == [True, True]
    assert acme.balance("eur") == (40, 0)


def test_the_outcome_of_a_call_that_nobody_began_is_owned_by_nobody(acme: Protocol) -> None:
    stray = {"attempt_id": new_attempt()}
    assert [acme.settle("a", stray), acme.fail("a", stray)] == [False, False]
    assert acme.events("a") == []


def test_a_failure_that_is_told_again_after_the_next_attempt_began_is_no_news(acme: Protocol) -> None:
    error = {"type": "ValueError", "message": "no"}
    first = acme.begin("a")
    told = {"key": key_of("a"), "attempt_id": first["attempt_id"], "cost": {}, "error": error}
    acme.ask("fail", [told])
    second = acme.begin("a")

    assert acme.ask("fail", [told]) == [{"owned": False}]

    assert second["verdict"] == "run"
    assert acme.events("a") == ["superseded"]


# after it was pruned


def test_a_lost_call_to_a_model_is_spent_when_its_worker_tells_long_after_and_one_that_failed_is_forgotten(
    acme,
) -> None:
    acme.budget("eur", 100)
    lost = running(acme, **CHAT, key_source="none", reserve={"calls": 1, "EUR": 30})
    acme.lease_over("a")
    acme.renew()
    acme.fail("b", acme.begin("b", **CHAT, key_source="none", reserve={"EUR": 1}))
    assert acme.prune() == 1
    assert acme.balance("eur") == (0, 0)

    assert [acme.settle("a", lost, cost={"EUR": 20}) for _ in range(2)] == [True, True]

    assert acme.balance("eur") == (20, 0)
    assert acme.prune() == 1  # it is booked
    assert acme.settle("a", lost, cost={"EUR": 20}) is False
    assert acme.balance("eur") == (20, 0)


def test_an_attempt_that_was_ruled_out_is_the_truth_though_a_person_denied_the_next_and_it_was_pruned(acme) -> None:
    acme.budget("eur", 100)
    old = failed(acme, reserve={"calls": 1, "EUR": 30})
    asked = pending(acme)
    assert acme.deny(asked)["done"]
    acme.prune()

    assert [acme.settle("a", old) for _ in range(2)] == [True, True]

    assert (acme.balance("eur"), acme.call("a")["state"]) == ((30, 0), "succeeded")


def test_what_is_told_again_with_its_begin_is_no_further_attempt(acme: Protocol) -> None:
    told = item("a", unguarded=True)
    ended = {"key": told["key"], "attempt_id": told["attempt_id"], "ran": RAN, "error": {"type": "E"}}
    for _ in range(2):
        acme.ask("begin", [told])
        acme.ask("fail", [ended])
        assert (acme.call("a")["state"], acme.call("a")["attempts"]) == ("failed", 1)
    second = acme.begin("a")
    assert second["attempts"] == 2
    acme.fail("a", second)
    acme.prune()
    acme.ask("begin", [told])
    acme.ask("fail", [ended])
    assert (acme.call("a")["attempt_id"], acme.call("a")["attempts"]) == (second["attempt_id"], 2)
    assert acme.events("a") == ["unguarded"]


def test_what_ran_unguarded_is_remembered_although_it_took_nothing_from_a_budget(acme: Protocol) -> None:
    told = item("a", unguarded=True)
    acme.ask("begin", [told])
    assert acme.settle("a", told, ran=RAN)
    assert acme.events("a") == ["unguarded"]


RAN = {"tool": "refund", "operation": "execute_tool", "actor": "u_1", "reserve": {"calls": 1, "EUR": 30}}


def test_what_ran_unguarded_and_has_an_unknown_outcome_is_spent_as_far_as_it_was_told_once_it_is_ruled_out(
    acme,
) -> None:
    acme.budget("eur", 100)
    told = item("a", unguarded=True, reserve=RAN["reserve"])
    ended = {"key": told["key"], "attempt_id": told["attempt_id"], "ran": RAN, "error": {"type": "E"}}
    for _ in range(2):
        acme.ask("begin", [told])
        acme.ask("fail", [ended | {"outcome_unknown": True, "cost": {"EUR": 7}}])
    acme.resolve("a", "failed")
    acme.ask("begin", [told])
    acme.ask("fail", [ended | {"outcome_unknown": True, "cost": {"EUR": 7}}])
    assert acme.balance("eur") == (7, 0)


@pytest.mark.parametrize(("cost", "spent"), [({"EUR": 33}, 33), ({}, 30)])
def test_what_ran_unguarded_and_is_not_admitted_later_is_spent_all_the_same(acme: Protocol, cost, spent) -> None:
    acme.budget("eur", 10, per=["actor"])
    acme.budget("count", 9, "calls", match="other")
    refused = acme.begin("a", actor="u_1", reserve=RAN["reserve"])
    assert refused["verdict"] == "budget_exceeded"
    assert [acme.settle("a", refused, cost=cost, ran=RAN) for _ in range(2)] == [True, True]
    assert (acme.balance("eur", actor="u_1"), acme.balance("count")) == ((spent, 0), (0, 0))
    assert acme.call("a")["state"] == "succeeded"


def test_what_ran_unguarded_beside_another_worker_is_late_and_spent_once(acme: Protocol) -> None:
    acme.budget("eur", 100)
    running(acme, reserve=RAN["reserve"])
    unguarded = acme.begin("a", reserve=RAN["reserve"])
    assert unguarded["verdict"] == "in_progress"
    assert [acme.settle("a", unguarded, cost={"EUR": 40}, ran=RAN) for _ in range(2)] == [False, False]
    assert acme.balance("eur") == (40, 30)
    assert acme.events("a") == ["late_success", "unguarded"]


def test_what_ran_unguarded_and_is_admitted_later_is_spent_once(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun = acme.begin("a", reserve=RAN["reserve"])
    assert [acme.settle("a", begun, cost={"EUR": 40}, ran=RAN) for _ in range(2)] == [True, True]
    assert acme.balance("eur") == (40, 0)


def over_budget(acme: Protocol) -> dict:
    begun = acme.begin("a", actor="u_1", reserve={"calls": 1, "EUR": 130})
    assert begun["verdict"] == "budget_exceeded"
    return begun


def asked_for(acme: Protocol) -> dict:
    return pending(acme, actor="u_1", reserve={"calls": 1, "EUR": 130})


def said_no(acme: Protocol) -> dict:
    begun = asked_for(acme)
    acme.deny(begun)
    return begun


def reopened(acme: Protocol) -> dict:
    begun = said_no(acme)
    acme.resolve("a", "retry")
    return begun


def in_progress(acme: Protocol) -> dict:
    acme.fail("a", running(acme, actor="u_1", reserve={"calls": 1, "EUR": 5}))
    running(acme, actor="u_1", reserve={"calls": 1})
    return acme.begin("a", actor="u_1", reserve={"calls": 1, "EUR": 130})


@pytest.mark.parametrize("past", [over_budget, asked_for, said_no, reopened, in_progress])
def test_what_ran_although_its_begin_said_that_it_may_not_is_spent_once_beyond_the_limit(acme: Protocol, past) -> None:
    acme.budget("eur", 100, per=["actor"])
    acme.budget("count", 9, "calls")
    acme.budget("mail", 9, "calls", match="mail*")
    begun = past(acme)
    for _ in range(2):
        acme.settle("a", begun, cost={"EUR": 120}, admitted=False)
        assert (acme.balance("eur", actor="u_1")[0], acme.balance("count")[0], acme.balance("mail")) == (120, 1, (0, 0))
    assert [(overrun["budget"], overrun["spent"]) for overrun in acme.history("overrun")] == [("eur", 120)]


@pytest.mark.parametrize("past", [over_budget, asked_for])
def test_what_ran_although_it_might_not_and_says_no_cost_has_cost_what_it_asked_for(acme: Protocol, past) -> None:
    acme.budget("eur", 100)
    assert acme.settle("a", past(acme)) is True
    assert acme.balance("eur") == (130, 0)
    assert acme.begin("a")["verdict"] == "replay"


def test_what_ran_although_it_might_not_is_spent_in_the_window_in_which_it_was_asked_about(acme: Protocol) -> None:
    acme.budget("eur", 100, window="rolling", window_s=60)
    begun = over_budget(acme)
    acme.sql.execute(
        "update spanledger.call set started_at = started_at - interval '90 s' where tenant = %s", (acme.tenant,)
    )
    assert acme.settle("a", begun, cost={"EUR": 120})
    assert acme.balance("eur") == (0, 0)
    query = "select sum(spent)::integer from spanledger.account where tenant = %s"
    assert acme.sql.execute(query, (acme.tenant,)).fetchone() == (120,)


def test_a_claim_that_is_given_back_while_it_is_being_made_is_not_left_behind(acme: Protocol, shared_dsn) -> None:
    acme.budget("eur", 100)
    acme.settle("other", acme.begin("other", reserve={"EUR": 1}))
    asked = item("a", reserve={"calls": 1, "EUR": 30})
    with (
        psycopg.connect(shared_dsn, autocommit=True) as one,
        psycopg.connect(shared_dsn, autocommit=True) as two,
        ThreadPoolExecutor(2) as pool,
    ):
        with psycopg.connect(shared_dsn) as busy:
            busy.execute("select from spanledger.account where tenant = %s for update", (acme.tenant,))
            begin = pool.submit(Protocol(one, acme.tenant).ask, "begin", [asked])
            until_blocked(acme.sql, one.info.backend_pid)
            back = {"key": asked["key"], "attempt_id": asked["attempt_id"], "not_invoked": True}
            fail = pool.submit(Protocol(two, acme.tenant).ask, "fail", [back])
            until_blocked(acme.sql, two.info.backend_pid)
        assert begin.result()[0]["verdict"] == "run"
        assert fail.result() == [{"owned": True}]
    assert (acme.call("a")["state"], acme.balance("eur")) == ("released", (1, 0))


def test_what_ran_without_the_consent_that_was_asked_for_is_never_shown_as_consented_to(acme: Protocol) -> None:
    asked = pending(acme)
    assert acme.settle("a", asked)
    assert [(a["state"], a["by_name"]) for a in acme.approvals("a")] == [("cancelled", None)]
    assert acme.approve(asked) == {"done": False, "state": "cancelled", "by": None}


def given_back(asked: dict) -> dict:
    """What a program says of a begin that had no answer."""
    names = ("key", "attempt_id", "tool", "operation", "workflow_id", "key_source", "fingerprint")
    return {name: asked[name] for name in names} | {"not_invoked": True}


def test_a_begin_that_comes_after_it_was_given_back_starts_nothing(acme: Protocol) -> None:
    acme.budget("eur", 100)
    delayed = item("a", reserve={"calls": 1, "EUR": 30})
    assert acme.ask("fail", [given_back(delayed)]) == [{"owned": False}]
    others = [item(name, reserve={"calls": 1, "EUR": 1}) for name in "bc"]

    alone, *_ = acme.ask("begin", [delayed])
    _, together, _ = acme.ask("begin", [others[0], delayed, others[1]])

    assert [alone["verdict"], together["verdict"]] == ["failed", "failed"]
    assert (acme.call("a")["state"], acme.call("a")["attempts"], acme.balance("eur")) == ("released", 0, (0, 2))
    again = acme.begin("a")
    assert (again["verdict"], again["attempt"], again["attempts"]) == ("run", 1, 1)
    acme.fail("a", again)
    assert acme.ask("begin", [delayed])[0]["verdict"] == "failed"


def test_a_begin_that_waits_while_it_is_given_back_starts_nothing(acme: Protocol, shared_dsn) -> None:
    delayed = item("a")
    with psycopg.connect(shared_dsn, autocommit=True) as one, ThreadPoolExecutor(1) as pool:
        with psycopg.connect(shared_dsn) as two:
            assert Protocol(two, acme.tenant).ask("fail", [given_back(delayed)]) == [{"owned": False}]
            begin = pool.submit(Protocol(one, acme.tenant).ask, "begin", [delayed])
            until_blocked(acme.sql, one.info.backend_pid)
        assert begin.result()[0]["verdict"] == "failed"
    assert acme.call("a")["state"] == "released"


def test_a_claim_that_is_given_back_while_others_make_it_is_told_again_and_then_starts_nothing(
    acme: Protocol, shared_dsn
) -> None:
    delayed = item("a")
    with psycopg.connect(shared_dsn) as busy:
        busy.execute("select pg_advisory_xact_lock(spanledger.claim_of(%s, %s))", (acme.tenant, delayed["key"]))
        assert acme.ask("fail", [given_back(delayed)]) == [{"owned": False, "known": False}]
    assert acme.ask("fail", [given_back(delayed)]) == [{"owned": False}]

    assert acme.ask("begin", [delayed])[0]["verdict"] == "failed"
    assert acme.begin("a")["verdict"] == "run"


def test_of_a_call_that_the_ledger_does_not_have_nothing_can_be_told(acme: Protocol) -> None:
    told = {"key": key_of("a"), "attempt_id": new_attempt()}
    others = acme.begin("b"), acme.begin("c")
    for function, other in zip(("settle", "fail"), others, strict=True):
        owned = {"key": key_of("b" if other is others[0] else "c"), "attempt_id": other["attempt_id"]}
        assert acme.ask(function, [told]) == [{"owned": False, "known": False}]
        assert acme.ask(function, [told, owned]) == [{"owned": False, "known": False}, {"owned": True}]


@pytest.mark.parametrize("past", [failed, approved, denied])
def test_a_begin_of_a_call_with_a_past_that_comes_after_it_was_given_back_starts_nothing(acme: Protocol, past) -> None:
    past(acme)
    delayed = item("a", approval=past is approved)
    for _ in range(2):
        acme.ask("fail", [given_back(delayed)])
    assert acme.events("a").count("not_invoked") == 1
    acme.resolve("a", "retry")

    assert acme.ask("begin", [delayed])[0]["verdict"] == "failed"
    assert acme.begin("a", approval=past is approved)["verdict"] == "run"


@pytest.mark.parametrize("said", [{}, {"not_invoked": True}, {"outcome_unknown": True}])
@pytest.mark.parametrize("consent", [False, True])
def test_a_begin_that_comes_twice_starts_nothing_once_its_attempt_is_over(acme: Protocol, said, consent) -> None:
    if consent:
        approved(acme)
    asked = item("a", on_unknown="retry", approval=consent)
    assert acme.ask("begin", [asked])[0]["verdict"] == "run"
    acme.fail("a", asked, **said)
    state = acme.call("a")["state"]

    assert acme.ask("begin", [asked])[0]["verdict"] == ("outcome_unknown" if "outcome_unknown" in said else "failed")

    assert acme.call("a")["state"] == state


def test_a_begin_that_comes_twice_starts_no_new_generation(acme: Protocol) -> None:
    asked = item("a", replay_for_s=0)
    acme.ask("begin", [asked])
    acme.settle("a", asked)
    assert acme.ask("begin", [asked])[0]["verdict"] == "replay"


@pytest.mark.parametrize("past", [over_budget, asked_for])
def test_what_ran_although_it_might_not_is_the_truth_though_others_have_asked_since(acme: Protocol, past) -> None:
    acme.budget("eur", 100, per=["actor"])
    ran = past(acme)
    if past is asked_for:
        acme.begin("a", actor="u_1", approval=True, fingerprint=key_of("other"), reserve={"calls": 1, "EUR": 130})
    assert past(acme)["attempt_id"] != ran["attempt_id"]

    assert [acme.settle("a", ran, cost={"EUR": 120}) for _ in range(2)] == [True, True]

    assert (acme.balance("eur", actor="u_1"), acme.begin("a")["verdict"]) == ((120, 0), "replay")


def test_a_success_that_is_told_again_is_no_answer_to_what_is_asked_about_the_next_generation(acme: Protocol) -> None:
    first = failed(acme)
    pending(acme)
    acme.settle("a", first)
    pending(acme, replay_for_s=0)

    assert acme.settle("a", first) is False

    assert acme.call("a")["state"] == "pending"
