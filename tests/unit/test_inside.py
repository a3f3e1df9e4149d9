"""What happens inside a running call is told to it from anywhere, at any time."""

from __future__ import annotations

import gc

from spanledger._inside import Inside


class Abandoned:
    """A call inside of another one that nobody ends but the collector of garbage."""

    def __init__(self, inside: Inside) -> None:
        assert inside.stand_for()
        self.inside = inside
        self.itself = self

    def __del__(self) -> None:
        self.inside.leave()


def test_the_collector_may_end_a_call_inside_while_the_one_around_is_told_of_another() -> None:
    ended, inside = Inside(), Inside()
    Abandoned(ended)
    with inside._lock:  # in there anything may set the collector off
        gc.collect()
    assert ended._depth == 0


def test_a_call_stands_for_one_inside_it_and_for_what_that_one_makes_in_turn() -> None:
    inside = Inside()
    assert inside.stand_for()
    assert inside.stand_for()
    inside.leave()
    inside.leave()
    assert not inside.stand_for()
    assert inside.sends() is inside.sends()
