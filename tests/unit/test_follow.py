"""How often `tail` looks."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from spanledger.cli import follow
from spanledger.errors import LedgerUnavailable
from spanledger.ledger._line import JITTER


def entry(number: int) -> dict[str, Any]:
    named = {"source": "call", "seq": 0, "key": str(number), "what": "run", "attempt": 1}
    return {**named, "at": f"2026-01-01T00:00:{number % 60:02d}+00:00"}


class Clock:
    """A clock that stands still but for those who sleep, and for looks that take their time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.pauses_s: list[float] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, pause_s: float) -> None:
        self.pauses_s.append(pause_s)
        self.now_s += pause_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def looked(read: Any, times: int) -> list[list[Any]]:
    looks: Iterator[list[Any]] = follow.looks(read, None, None, 10)
    return [next(looks) for _ in range(times)]


def within(pause_s: float, longest_s: float) -> bool:
    return longest_s * (1 - JITTER) <= pause_s <= longest_s


def test_while_something_happens_tail_looks_often(clock):
    numbers = iter(range(100))
    looked(lambda *_args, **_how: [entry(next(numbers))], 20)
    assert all(within(pause_s, follow.PAUSE_S_MIN) for pause_s in clock.pauses_s)


def test_the_longer_nothing_happens_the_less_often_it_looks_and_once_a_second_at_least(clock):
    looked(lambda *_args, **_how: [entry(1)], 30)
    first, last = clock.pauses_s[0], clock.pauses_s[-10:]
    assert within(first, follow.PAUSE_S_MIN)
    assert all(within(pause_s, follow.PAUSE_S_MAX) for pause_s in last)


def test_what_was_last_is_looked_for_lately_and_then_ever(clock):
    asked: list[Any] = []

    def read(*_args: Any, rows_max: int, since: Any = None, **_how: Any) -> list[Any]:
        asked.append(since)
        return [entry(number) for number in range(3 if since else 12)][:rows_max]

    assert len(looked(read, 1)[0]) == 10
    assert [since is None for since in asked] == [False, True]
    assert len(next(follow.looks(read, None, None, 3))) == 3
    assert [since is None for since in asked] == [False, True, False]


def test_looks_that_take_long_take_a_tenth_of_the_time(clock):
    def read(*_args: Any, **_how: Any) -> list[Any]:
        clock.now_s += 3.0
        return [entry(1)]

    looked(read, 5)
    assert all(within(pause_s, 30.0) for pause_s in clock.pauses_s[1:])


def test_a_ledger_that_is_away_is_not_asked_often(clock, capsys):
    answers: list[Any] = [[entry(1)], [entry(1)], LedgerUnavailable("away"), LedgerUnavailable("away"), [entry(2)]]

    def read(*_args: Any, **_how: Any) -> list[Any]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert looked(read, 4) == [[entry(1)], [], [], [entry(2)]]
    assert [within(pause_s, follow.PAUSE_S_MAX) for pause_s in clock.pauses_s] == [False, True, True]
    assert capsys.readouterr().err.count("trying again") == 2


def test_ctrl_c_that_somebody_swallows_on_its_way_is_remembered():
    before = signal.getsignal(signal.SIGINT)
    with follow._until_interrupted() as interrupted:
        assert not interrupted()
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupted()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_look_that_fails_gives_whoever_shows_it_a_chance_to_end(clock):
    answers = iter([[], [], LedgerUnavailable("away"), [entry(1)]])

    def read(*_args: Any, **_how: Any) -> list[Any]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert looked(read, 3) == [[], [], [entry(1)]]
