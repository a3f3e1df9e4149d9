"""Which of the equal calls of an execution a call is.

Rules: numbers are given in the order of asking, from 1, to any thread. A number belongs to a call that is on its way or
has succeeded. What did not run, or failed, gives its number back: whoever asks for an equal call next makes that one
again. The same id has the same number, however often it asks. What was counted goes with the execution it belongs to.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

from spanledger.core.frozen import value
from spanledger.core.locks import ProcessLock
from spanledger.errors import Undescribable

# Numbers and ids in one execution: some 20 MB.
NUMBERS_MAX: Final = 100_000

# One for all, as in `Inside`.
_lock = ProcessLock()


@value
class Occurrence:
    """Which of the equal calls of an execution it is.

    Attributes:
        number: From 1.
        within: The key of the call inside which it is made, where that is what is counted in; empty for a run.
    """

    number: int = 1
    within: str = ""


FIRST: Final = Occurrence()


@dataclass(slots=True)
class _Equal:
    """Equal calls: how many hold each number, which are free again, and who was given which."""

    last: int = 0
    holders: dict[int, int] = field(default_factory=dict)
    free: set[int] = field(default_factory=set)
    by_id: dict[Hashable, int] = field(default_factory=dict)


class Counted:
    """A number that a call holds, until it gives it back."""

    __slots__ = ("_around", "_equal", "_held", "number")

    def __init__(self, number: int, equal: _Equal, around: Counted | None) -> None:
        self.number = number
        self._equal = equal
        self._around = around
        self._held = True

    def give_back(self) -> None:
        """Say that the call did not succeed; once is enough. Whoever has the same number by its id still holds it."""
        with _lock:
            if not self._held:
                return
            self._held = False
            holders = self._equal.holders
            holders[self.number] -= 1
            if not holders[self.number]:
                del holders[self.number]
                self._equal.free.add(self.number)
        if self._around is not None:
            self._around.give_back()


class Occurrences:
    """What one execution has counted; threads may share it.

    So `Rule(identity="occurrence")` means: identical calls of a run all run, a die is rolled twice, and the next run of
    the workflow is given their results in the same order. Each run counts from its beginning, and each process by
    itself. A run that a framework takes up at a checkpoint, without asking for what came before, is not at its
    beginning: ``"call_id"`` is for those. What a run refused, or what failed, is asked for again under its own number,
    so that no second request is made for the same consent, and no way around an unknown outcome. Calls that are made at
    once are numbered as they ask, so they are to be interchangeable.
    """

    __slots__ = ("_count", "_equal")

    def __init__(self) -> None:
        self._count = 0
        self._equal: dict[str, _Equal] = {}

    def take(self, key: str, call_id: Hashable = None, around: Counted | None = None) -> Counted:
        """Number a call.

        Args:
            key: What equal calls have in common.
            call_id: What says that two questions are about one call; None: nothing does.
            around: What is given back with it.

        Raises:
            Undescribable: There are too many.
        """
        with _lock:
            equal = self._equal.setdefault(key, _Equal())
            known = None if call_id is None else equal.by_id.get(call_id)
            number = known or min(equal.free, default=equal.last + 1)
            if known is None and (call_id is not None or number > equal.last):
                self._count += 1
                if self._count > NUMBERS_MAX:
                    raise Undescribable(
                        f"one execution numbers {NUMBERS_MAX} calls at most for identity='occurrence'; "
                        "open a workflow() for each piece of work"
                    )
            if call_id is not None:
                equal.by_id[call_id] = number
            equal.free.discard(number)
            equal.last = max(equal.last, number)
            equal.holders[number] = equal.holders.get(number, 0) + 1
            return Counted(number, equal, around)
