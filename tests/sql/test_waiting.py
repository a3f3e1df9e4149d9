"""Who waits for a call is woken when it changes, and nobody else is: one sentence each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from protocol import (
    ASK,
    PROBE,
    RETRY,
    Protocol,
    approved,
    failed,
    item,
    key_of,
    new_attempt,
    pending,
    running,
    succeeded,
    unknown,
)

WAIT = {"wait_s": 30}
Woken = Callable[[], list[str]]


@pytest.fixture
def woken(shared_dsn: str) -> Iterator[Woken]:
    """Which of these calls were told of since the last time."""
    names = {key_of(name): name for name in "abcd"}
    with psycopg.connect(shared_dsn, autocommit=True) as connection:
        connection.execute("listen spanledger")
        # What was sent is there with the answer to any statement.
        yield lambda: (
            connection.execute("select"),
            sorted(names[note.payload] for note in connection.notifies(timeout=0)),
        )[1]


def settle(acme: Protocol, begun: dict) -> None:
    acme.settle("a", begun)


def settle_in_a_batch(acme: Protocol, begun: dict) -> None:
    other = acme.begin("b")
    acme.ask("settle", [{"key": key_of(n), "attempt_id": b["attempt_id"]} for n, b in (("b", other), ("a", begun))])


def fail(acme: Protocol, begun: dict) -> None:
    acme.fail("a", begun)


def fail_not_knowing(acme: Protocol, begun: dict) -> None:
    acme.fail("a", begun, outcome_unknown=True)


def give_back(acme: Protocol, begun: dict) -> None:
    acme.fail("a", begun, not_invoked=True)


def lapse(acme: Protocol, begun: dict) -> None:
    acme.lease_over("a")
    acme.begin("a")


def resolve(acme: Protocol, begun: dict) -> None:
    acme.lease_over("a")
    acme.resolve("a", "failed")


def cancel_unknown(acme: Protocol, begun: dict) -> None:
    acme.lease_over("a")
    acme.cancel("a")


CHANGES = [settle, settle_in_a_batch, fail, fail_not_knowing, give_back, lapse, resolve, cancel_unknown]


@pytest.mark.parametrize("change", CHANGES)
def test_who_waits_for_a_running_call_is_woken_when_it_changes(acme: Protocol, woken: Woken, change) -> None:
    begun = running(acme)
    waiting = acme.begin("a", **WAIT)
    assert (waiting["verdict"], acme.peek("a")["changed"], woken()) == ("in_progress", False, [])
    change(acme, begun)
    assert set(woken()) == {"a"}
    assert acme.peek("a")["changed"]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("waited", [{}, {"wait_s": 0}])
def test_where_nobody_waits_nobody_is_woken(acme: Protocol, woken: Woken, change, waited) -> None:
    begun = running(acme)
    acme.begin("a", **waited)
    change(acme, begun)
    assert woken() == []


@pytest.mark.parametrize(
    "answer",
    [
        lambda acme, asked: acme.approve(asked),
        lambda acme, asked: acme.deny(asked),
        lambda acme, asked: acme.cancel("a"),
        lambda acme, asked: (acme.answer_due("a"), acme.begin("a")),
        lambda acme, asked: (acme.answer_due("a"), acme.approve(asked)),
        lambda acme, asked: (acme.answer_due("a"), acme.resolve("a", "retry")),
    ],
    ids=["yes", "no", "cancelled", "nobody in time", "yes too late", "reopened"],
)
@pytest.mark.parametrize("waits", ["who asks", "who asks again", "nobody"])
def test_who_waits_for_a_person_is_woken_by_their_answer(acme: Protocol, woken: Woken, answer, waits) -> None:
    asked = pending(acme, **(WAIT if waits == "who asks" else {}))
    if waits == "who asks again":
        acme.begin("a", **ASK, **WAIT)
    assert (acme.peek("a")["changed"], woken()) == (False, [])
    answer(acme, asked)
    assert set(woken()) == ({"a"} if waits != "nobody" else set())
    assert acme.peek("a")["changed"]


def test_a_no_to_whom_nobody_waits_wakes_nobody_but_of_others(acme: Protocol, woken: Woken) -> None:
    asked = {name: acme.begin(name, **ASK, **(WAIT if name != "c" else {})) for name in "cab"}
    acme.ask("deny", [{"id": begun["approval_id"], "by": "boss"} for begun in asked.values()])
    assert woken() == ["a", "b"]


def test_a_begin_of_what_was_approved_wakes_whoever_waits_once_it_ends(acme: Protocol, woken: Woken) -> None:
    approved(acme, **WAIT)
    begun = running(acme, **ASK)
    assert woken() == ["a"]
    acme.settle("a", begun)
    assert woken() == ["a"]


def test_a_probe_that_gives_back_wakes_who_waits_for_it(acme: Protocol, woken: Woken) -> None:
    unknown(acme)
    prober = new_attempt()
    assert acme.begin("a", **PROBE, attempt_id=prober)["probe"]
    assert acme.begin("a", **PROBE, **WAIT)["verdict"] == "in_progress"
    assert acme.peek("a")["changed"] is False
    answers = acme.ask("probed", [{"key": key_of("a"), "probe_id": prober, "outcome": "unknown"}])
    assert answers == [{"done": True, "state": "unknown"}]
    assert (woken(), acme.peek("a")["changed"]) == (["a"], True)
    assert acme.begin("a", **PROBE)["probe"]


def test_a_late_success_wakes_who_waits(acme: Protocol, woken: Woken) -> None:
    begun = failed(acme)
    pending(acme, **WAIT)
    assert acme.settle("a", begun)
    assert woken() == ["a"]


def test_a_late_success_that_is_no_result_wakes_nobody(acme: Protocol, woken: Woken) -> None:
    old = unknown(acme)
    running(acme, **RETRY)
    acme.begin("a", **WAIT)
    woken()
    acme.settle("a", old)
    assert woken() == []


def test_the_longest_wait_counts(acme: Protocol, woken: Woken) -> None:
    begun = running(acme)
    acme.begin("a", wait_s=30)
    acme.begin("a", wait_s=0)
    acme.settle("a", begun)
    assert woken() == ["a"]


def test_of_a_batch_those_are_told_of_for_whom_somebody_waits(acme: Protocol, woken: Woken) -> None:
    begun = {name: acme.begin(name) for name in "abcd"}
    acme.ask("begin", [item(name, **WAIT) for name in "db"])
    acme.ask("settle", [{"key": key_of(name), "attempt_id": begun[name]["attempt_id"]} for name in "abcd"])
    assert woken() == ["b", "d"]


def test_peek_says_how_long_nothing_changes_by_itself_in_the_order_of_the_items(acme: Protocol) -> None:
    succeeded(acme)
    acme.begin("b", lease_s=60)
    acme.begin("c", **ASK, approval_timeout_s=90)
    acme.begin("d")
    acme.fail("d", {"attempt_id": acme.call("d")["attempt_id"]}, outcome_unknown=True)
    answers = acme.ask("peek", [{"key": key_of(name)} for name in ("c", "nobody", "b", "a", "d")])
    assert [answer["changed"] for answer in answers] == [False, True, False, True, True]
    assert 80 < answers[0]["left_s"] <= 90
    assert 50 < answers[2]["left_s"] <= 60


def test_only_who_holds_the_probe_may_say_what_became_of_a_call(acme: Protocol) -> None:
    unknown(acme)
    prober = new_attempt()
    acme.begin("a", **PROBE, attempt_id=prober)
    stray = {"key": key_of("a"), "probe_id": new_attempt(), "outcome": "failed"}
    assert acme.ask("probed", [stray]) == [{"done": False, "state": None}]
    answers = acme.ask("probed", [stray, stray | {"probe_id": prober, "outcome": "succeeded"}, stray])
    assert [answer["done"] for answer in answers] == [False, True, False]


def test_a_probe_does_not_reopen_what_a_person_has_cancelled(acme: Protocol) -> None:
    unknown(acme)
    prober = new_attempt()
    acme.begin("a", **PROBE, attempt_id=prober)
    acme.cancel("a")
    assert acme.ask("probed", [{"key": key_of("a"), "probe_id": prober, "outcome": "retry"}])[0]["done"] is False
    assert acme.call("a")["state"] == "cancelled"
