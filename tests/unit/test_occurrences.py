"""Which of the equal calls of an execution a call is."""

from __future__ import annotations

import os
import threading
from dataclasses import replace

import pytest
from tests.forks import forked_while_held

from spanledger import Config, Resource, Rule, ToolCall, errors
from spanledger.config import Config as Configuration
from spanledger.core import occurrences
from spanledger.core.call import Call
from spanledger.core.keys import identify
from spanledger.core.occurrences import Occurrence, Occurrences
from spanledger.core.rules import terms_for
from spanledger.ledger._requests import asking

ROLL = Call("roll_dice", arguments={"sides": 6}, workflow_id="w-1", opted_in=True)
BY_OCCURRENCE = Rule("roll_dice", identity="occurrence")


def identity_of(call: Call) -> tuple[str, str]:
    made = identify(call, terms_for(call, [BY_OCCURRENCE]), tenant="acme", nonce="n")
    return made.source, made.key


def numbers(counts: Occurrences, *ids: str | None) -> list[int]:
    return [counts.take("k", call_id).number for call_id in ids]


# --- the key


def test_a_key_is_made_of_the_arguments_the_number_and_what_is_counted_in() -> None:
    calls = [
        ROLL,
        replace(ROLL, occurrence=Occurrence(2)),
        replace(ROLL, occurrence=Occurrence(1, "a" * 64)),
        replace(ROLL, arguments={"sides": 20}),
        replace(ROLL, workflow_id="w-2"),
    ]
    made = [identity_of(call) for call in calls]
    assert {source for source, _ in made} == {"occurrence"}
    assert len({key for _, key in made}) == len(calls)
    assert identity_of(replace(ROLL, call_id="call_a")) == identity_of(replace(ROLL, call_id="call_b")) == made[0]


def test_the_number_is_in_no_other_key() -> None:
    by_key, by_resource = replace(ROLL, key="mine"), replace(ROLL, resource=Resource("shop", "die", "d-1"))
    for call in (by_key, by_resource, replace(ROLL, fields=("sides",))):
        assert identity_of(call) == identity_of(replace(call, occurrence=Occurrence(2)))


def test_arguments_that_are_not_shown_are_not_counted() -> None:
    with pytest.raises(errors.Undescribable, match="identified by its arguments"):
        identity_of(replace(ROLL, arguments=None))


def test_a_ledger_by_hand_knows_no_runs_and_says_what_to_do() -> None:
    config = Config(rules=[BY_OCCURRENCE])
    with pytest.raises(errors.Undescribable, match=r"@tool or tool_call\(\) in a workflow\(\), or give it a key"):
        asking(config, ToolCall("roll_dice", {"sides": 6}, workflow_id="w"))
    assert asking(config, ToolCall("roll_dice", {"sides": 6}, workflow_id="w", key="k")).identity.source == "explicit"


def test_a_file_may_say_so(tmp_path) -> None:
    file = tmp_path / "spanledger.toml"
    file.write_text('[[rules]]\nmatch = "roll_dice"\nidentity = "occurrence"\n')
    assert Configuration.from_file(file).rules == (BY_OCCURRENCE,)


# --- the numbers


def test_equal_calls_are_numbered_as_they_are_asked_about_and_each_kind_by_itself() -> None:
    counts = Occurrences()
    assert [counts.take(key).number for key in "aabaB"] == [1, 2, 1, 3, 1]


def test_the_same_id_has_the_same_number() -> None:
    assert numbers(Occurrences(), "a", "b", "a", None, "b", "c", None) == [1, 2, 1, 3, 2, 4, 5]


def test_a_number_that_is_given_back_is_the_next_one_and_the_lowest_first() -> None:
    counts = Occurrences()
    taken = [counts.take("k") for _ in range(3)]
    for one in (taken[1], taken[0], taken[0]):
        one.give_back()
    assert numbers(counts, None, None, None) == [1, 2, 4]


def test_a_number_that_two_hold_by_its_id_is_free_when_both_have_given_it_back() -> None:
    counts = Occurrences()
    one, other = counts.take("k", "a"), counts.take("k", "a")
    one.give_back()
    one.give_back()
    assert numbers(counts, None) == [2]
    other.give_back()
    assert numbers(counts, None, "a") == [1, 1]


def test_what_is_counted_around_is_given_back_with_it() -> None:
    around, counts = Occurrences(), Occurrences()
    counts.take("k", around=around.take("k")).give_back()
    assert numbers(around, None) == numbers(counts, None) == [1]


def test_an_execution_counts_no_more_than_fit_into_memory_and_says_what_to_do(monkeypatch) -> None:
    monkeypatch.setattr(occurrences, "NUMBERS_MAX", 3)
    counts = Occurrences()
    for _ in range(10):
        counts.take("k").give_back()
        counts.take("l", "a")
    counts.take("m")
    with pytest.raises(errors.Undescribable, match="open a workflow"):
        counts.take("n")


def test_threads_are_given_numbers_of_their_own() -> None:
    counts, given = Occurrences(), []
    barrier = threading.Barrier(8)

    def take() -> None:
        barrier.wait()
        given.extend(counts.take("k").number for _ in range(500))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(given) == list(range(1, 4001))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_counts_on_though_a_thread_of_its_parent_was_counting_when_it_was_forked() -> None:
    counts = Occurrences()
    assert forked_while_held(occurrences._lock, lambda: counts.take("k").number) == 1
