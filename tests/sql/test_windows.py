"""Budgets that start anew, on a calendar or rolling, and their soft limits: one sentence each."""

from __future__ import annotations

import itertools
import time
import uuid

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from protocol import RETRY, Protocol, eur, item, new_attempt, unknown

MINUTE = {"window": "rolling", "window_s": 60}
DAY_S = 86_400


def window_start(acme: Protocol, kind: str | None, window_s: float | None, timezone: str, now: str) -> str | None:
    query = "select to_char(spanledger.window_start(%s, %s, %s, %s) at time zone 'UTC', 'MM-DD HH24:MI:SS')"
    return acme.sql.execute(query, (kind, window_s, timezone, now)).fetchone()[0]


# where windows begin


@pytest.mark.parametrize(
    ("kind", "timezone", "now", "start"),
    [
        ("hour", "UTC", "2026-05-04T10:59:59.9Z", "05-04 10:00:00"),
        ("hour", "Asia/Kolkata", "2026-05-04T10:45:00Z", "05-04 10:30:00"),
        ("day", "UTC", "2026-05-04T00:00:00Z", "05-04 00:00:00"),
        ("day", "UTC", "2026-05-04T23:59:59Z", "05-04 00:00:00"),
        ("day", "Europe/Berlin", "2026-05-04T21:59:59Z", "05-03 22:00:00"),
        ("day", "Europe/Berlin", "2026-05-04T22:00:00Z", "05-04 22:00:00"),
        ("month", "UTC", "2026-05-31T23:59:59Z", "05-01 00:00:00"),
        ("month", "America/New_York", "2026-05-01T03:59:59Z", "04-01 04:00:00"),
        # Spring: the day has 23 hours and no hour from 2 to 3.
        ("day", "Europe/Berlin", "2026-03-29T21:59:59Z", "03-28 23:00:00"),
        ("day", "Europe/Berlin", "2026-03-29T22:00:00Z", "03-29 22:00:00"),
        ("hour", "Europe/Berlin", "2026-03-29T00:59:59Z", "03-29 00:00:00"),
        ("hour", "Europe/Berlin", "2026-03-29T01:00:00Z", "03-29 01:00:00"),
        # Autumn: the day has 25 hours, and the one from 2 to 3 comes twice.
        ("day", "Europe/Berlin", "2026-10-25T22:59:59Z", "10-24 22:00:00"),
        ("day", "Europe/Berlin", "2026-10-25T23:00:00Z", "10-25 23:00:00"),
        ("hour", "Europe/Berlin", "2026-10-25T00:30:00Z", "10-25 00:00:00"),
        ("hour", "Europe/Berlin", "2026-10-25T01:30:00Z", "10-25 01:00:00"),
        ("month", "Europe/Berlin", "2026-10-31T22:59:59Z", "09-30 22:00:00"),
        ("month", "Europe/Berlin", "2026-10-31T23:00:00Z", "10-31 23:00:00"),
        # Where midnight itself is skipped, the day begins with its first moment.
        ("day", "America/Santiago", "2026-09-06T12:00:00Z", "09-06 04:00:00"),
    ],
)
def test_a_calendar_window_begins_where_its_time_zone_says(acme: Protocol, kind, timezone, now, start) -> None:
    assert window_start(acme, kind, None, timezone, now) == start


@pytest.mark.parametrize(
    ("window_s", "now", "start"),
    [
        (3600, "2026-05-04T10:00:59.9Z", "05-04 10:00:00"),
        (3600, "2026-05-04T10:01:00Z", "05-04 10:01:00"),
        (60, "2026-05-04T10:00:07.9Z", "05-04 10:00:07"),
    ],
)
def test_a_rolling_window_is_kept_in_sixty_slices(acme: Protocol, window_s, now, start) -> None:
    assert window_start(acme, "rolling", window_s, "UTC", now) == start


def test_a_budget_without_a_window_has_one_for_ever(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.begin("a", **eur(10))
    query = "select window_start from spanledger_v1.budgets where tenant = %s"
    assert acme.sql.execute(query, (acme.tenant,)).fetchone() == (None,)


@pytest.mark.parametrize(("window_s", "behind_s"), [(60, 61), (3600, 3660), (1, 1 + 1 / 60)])
def test_a_slice_counts_until_its_last_moment_is_old_enough(acme: Protocol, window_s, behind_s) -> None:
    query = "select extract(epoch from now() - spanledger.live_since('rolling', %s, 'UTC', now()))"
    assert float(acme.sql.execute(query, (window_s,)).fetchone()[0]) == pytest.approx(behind_s, abs=1e-5)


# a calendar


@pytest.mark.parametrize(("window", "seconds"), [("hour", 3600), ("day", DAY_S), ("month", 31 * DAY_S)])
def test_a_new_window_starts_anew(acme: Protocol, window, seconds) -> None:
    acme.budget("eur", 100, window=window, timezone="Europe/Berlin")
    acme.settle("a", acme.begin("a", **eur(100)))
    assert acme.begin("b", **eur(1))["verdict"] == "budget_exceeded"
    acme.windows_ago("eur", seconds)
    assert acme.balance("eur") == (0, 0)
    assert acme.begin("b", **eur(100))["verdict"] == "run"
    assert acme.balance("eur") == (0, 100)


def test_a_late_settle_is_booked_in_the_window_of_its_reservation(acme: Protocol) -> None:
    acme.budget("eur", 100, window="day")
    begun = acme.begin("a", **eur(60))
    acme.windows_ago("eur", DAY_S)
    acme.begin("b", **eur(10))
    acme.settle("a", begun, cost={"EUR": 70})
    assert acme.balance("eur") == (0, 10)
    rows = acme.sql.execute(
        "select spent, held from spanledger.account where tenant = %s order by window_start", (acme.tenant,)
    )
    assert rows.fetchall() == [(70, 0), (0, 10)]


def test_a_retry_in_a_new_window_gives_back_what_was_held_in_the_old_one(acme: Protocol) -> None:
    acme.budget("eur", 100, window="day")
    unknown(acme, **eur(60))
    acme.windows_ago("eur", DAY_S)
    assert acme.begin("a", **RETRY, **eur(100))["verdict"] == "run"
    rows = acme.sql.execute("select held from spanledger.account where tenant = %s order by id", (acme.tenant,))
    assert rows.fetchall() == [(0,), (100,)]


def test_a_top_up_is_for_the_present_window(acme: Protocol) -> None:
    acme.budget("eur", 100, window="day")
    assert acme.top_up("eur", "EUR", 50)
    assert acme.begin("a", **eur(150))["verdict"] == "run"
    acme.windows_ago("eur", DAY_S)
    assert acme.begin("b", **eur(101))["remaining"] == 100


@pytest.mark.parametrize(("before", "after"), [("hour", "day"), ("day", "month"), ("day", None), (None, "day")])
def test_what_a_budget_shows_is_what_it_counts_also_after_its_window_was_changed(acme, before, after) -> None:
    acme.budget("eur", 100, window=before)
    acme.settle("a", acme.begin("a", **eur(60)))
    acme.budget("eur", 100, window=after)
    refused = acme.begin("b", **eur(101))
    assert (refused["spent"], refused["held"]) == acme.balance("eur")


# rolling


def test_a_rolling_window_counts_all_that_is_not_old_enough(acme: Protocol) -> None:
    acme.budget("eur", 100, **MINUTE)
    acme.settle("a", acme.begin("a", **eur(60)), cost={"EUR": 50})
    acme.windows_ago("eur", 30.5)
    acme.begin("b", **eur(40))
    acme.windows_ago("eur", 20.5)
    assert acme.balance("eur") == (50, 40)
    refused = acme.begin("c", **eur(11))
    assert [refused[name] for name in ("verdict", "spent", "held", "remaining")] == ["budget_exceeded", 50, 40, 10]
    acme.windows_ago("eur", 15.5)
    assert acme.balance("eur") == (0, 40)
    assert acme.begin("c", **eur(60))["verdict"] == "run"


def test_a_late_settle_is_booked_in_the_slice_of_its_reservation(acme: Protocol) -> None:
    acme.budget("eur", 100, **MINUTE)
    begun = acme.begin("a", **eur(60))
    acme.windows_ago("eur", 40.5)
    acme.settle("a", begun, cost={"EUR": 90})
    assert acme.balance("eur") == (90, 0)
    acme.windows_ago("eur", 25.5)
    assert acme.balance("eur") == (0, 0)


def test_what_a_call_holds_in_an_older_slice_counts_for_its_own_next_attempt(acme: Protocol) -> None:
    acme.budget("eur", 100, **MINUTE)
    acme.budget("count", 1, "calls", **MINUTE)
    unknown(acme, **eur(80))
    for budget in ("eur", "count"):
        acme.windows_ago(budget, 30.5)
    assert acme.begin("a", **RETRY, **eur(101))["remaining"] == 100
    answers = acme.ask("begin", [item("a", **RETRY, **eur(70)), item("b", tool="x", **eur(30))])
    assert [answer["verdict"] for answer in answers] == ["run", "budget_exceeded"]
    assert answers[1]["budget"] == "count"
    assert (acme.balance("eur"), acme.balance("count")) == ((0, 70), (0, 1))


def test_a_begin_asked_again_sees_the_whole_rolling_window(acme: Protocol) -> None:
    acme.budget("eur", 100, **MINUTE, per=["actor"])
    acme.begin("a", **eur(30), actor="u")
    acme.windows_ago("eur", 30.5)
    mine = eur(50) | {"attempt_id": new_attempt(), "actor": "u"}
    first, again = acme.begin("b", **mine), acme.begin("b", **mine)
    assert again["budgets"] == first["budgets"]
    assert first["budgets"][0]["remaining"] == 20


def test_a_top_up_of_a_rolling_window_ages_like_what_is_spent(acme: Protocol) -> None:
    acme.budget("eur", 100, **MINUTE)
    acme.begin("a", **eur(100))
    assert acme.top_up("eur", "EUR", 50)
    assert acme.begin("b", **eur(50))["verdict"] == "run"
    acme.windows_ago("eur", 61.5)
    assert acme.begin("c", **eur(101))["remaining"] == 100


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.tuples(st.sampled_from([0.0, 3.1, 9.7, 59.0, 240.3, 599.9]), st.sampled_from([10, 35, 60])),
        min_size=4,
        max_size=14,
    )
)
def test_no_stretch_of_a_rolling_windows_length_ever_holds_more_than_the_limit(
    shared: psycopg.Connection, steps: list[tuple[float, int]]
) -> None:
    acme = Protocol(shared, f"rolling-{uuid.uuid4()}")
    acme.budget("eur", 100, window="rolling", window_s=600)
    passed, admitted = 0.0, []
    for n, (pause, amount) in enumerate(steps):
        acme.windows_ago("eur", pause)
        passed += pause
        if acme.begin(f"call {n}", **eur(amount))["verdict"] == "run":
            admitted.append((time.monotonic() + passed, amount))
    for (start, _), (end, _) in itertools.combinations_with_replacement(admitted, 2):
        # Half a second for the time that the test itself takes.
        if end - start <= 600 - 0.5:
            assert sum(amount for at, amount in admitted if start <= at <= end) <= 100


# soft limits


def test_the_one_call_that_crosses_a_soft_limit_says_so(acme: Protocol) -> None:
    acme.budget("eur", 100, soft=50)
    begun = [acme.begin(name, **eur(amount)) for name, amount in (("a", 50), ("b", 1), ("c", 10))]
    assert [b["budgets"][0].get("soft") for b in begun] == [None, 50, None]
    (said,) = acme.history("soft_limit")
    assert (said["name"], said["soft"], said["remaining"]) == ("eur", 50, 49)
    assert acme.events("b") == ["soft_limit"]


def test_a_soft_limit_is_said_again_when_it_is_crossed_again(acme: Protocol) -> None:
    acme.budget("eur", 100, soft=50)
    acme.fail("a", acme.begin("a", **eur(60)))
    acme.begin("b", **eur(60))
    assert len(acme.history("soft_limit")) == 2


def test_a_refused_call_crosses_no_soft_limit(acme: Protocol) -> None:
    acme.budget("eur", 100, soft=50)
    acme.budget("small", 10)
    acme.begin("a", **eur(60))
    assert acme.history("soft_limit") == []


def test_a_soft_limit_refuses_nothing(acme: Protocol) -> None:
    acme.budget("eur", 100, soft=0)
    assert acme.begin("a", **eur(100))["verdict"] == "run"


# overruns


def test_an_overrun_is_in_history_once_with_its_figures(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun = acme.begin("a", **eur(60))
    acme.begin("b", **eur(30))
    for _ in range(2):
        acme.settle("a", begun, cost={"EUR": 90})
    (overrun,) = acme.history("overrun")
    assert overrun == {"budget": "eur", "scope": "", "unit": "EUR", "limit": 100, "spent": 90, "held": 30}
    assert acme.events("a") == ["overrun"]


def test_a_call_that_costs_more_within_the_limit_is_no_overrun(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.settle("a", acme.begin("a", **eur(60)), cost={"EUR": 100})
    assert acme.history("overrun") == []


@pytest.mark.parametrize("spent_now", [0, 100])
def test_an_overrun_of_a_window_that_is_over_is_measured_by_that_window(acme: Protocol, spent_now) -> None:
    acme.budget("eur", 100, window="day")
    begun = [acme.begin(name, **eur(50)) for name in ("a", "b")]
    acme.windows_ago("eur", DAY_S)
    acme.settle("c", acme.begin("c", **eur(spent_now)))
    acme.settle("a", begun[0], cost={"EUR": 50})
    acme.settle("b", begun[1], cost={"EUR": 51})
    (overrun,) = acme.history("overrun")
    assert (overrun["spent"], overrun["held"]) == (101, 0)
