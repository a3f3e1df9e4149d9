"""What happens inside a running call, as that call has to know it when it ends.

Rules: it is the one thing about a running call that changes, and it does so from any thread, at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from spanledger.core.call import Ended
from spanledger.core.locks import ProcessLock
from spanledger.core.occurrences import Occurrences
from spanledger.core.outgoing import Outgoing


class Inside:
    """What happens inside a running call; the one thing about it that changes.

    A call stands for one call inside it that is the same, and for what that one makes in turn. When it is over, whoever
    makes the call again in there is retrying, and must not be waved through.

    Attributes:
        over: The call has ended. What it left running, tasks for example, is no longer inside.
        doubtful: Something in here may have taken effect although it failed.
        hidden: An exception that the framework made a value of.
        booked: Unit → steps that this call costs itself, because a call inside has booked the rest.
        passed_on: The call that this one was passed on as has succeeded: what is reserved for both is spent.
        outgoing: What it has sent to the outside; None: no request was looked at.
    """

    over = False
    doubtful = False
    hidden: BaseException | None = None
    booked: Mapping[str, int] = MappingProxyType({})
    passed_on = False
    outgoing: Outgoing | None = None
    _counts: Occurrences | None = None
    _stood_for = False
    _depth = 0
    # One for all, as nearly none of them is ever asked for: calls inside calls are few.
    _lock = ProcessLock()

    def sends(self) -> Outgoing:
        """Return what the call has sent, to add to it."""
        if self.outgoing is None:
            sent = Outgoing()
            with self._lock:
                self.outgoing = self.outgoing or sent
        return self.outgoing

    def counts(self) -> Occurrences:
        """Return how many equal calls are made in here, to count one more."""
        if self._counts is None:
            counts = Occurrences()
            with self._lock:
                self._counts = self._counts or counts
        return self._counts

    def told_by(self, ended: Ended) -> Ended:
        """Say how the call ended, where a request was refused inside it."""
        return ended if self.outgoing is None else self.outgoing.told_by(ended)

    def stand_for(self) -> bool:
        """Stand for a call inside, until `leave`; False if that was done already."""
        with self._lock:
            if self._stood_for and self._depth == 0:
                return False
            self._stood_for = True
            self._depth += 1
        return True

    def leave(self) -> None:
        """A call inside that this one stood for is over."""
        with self._lock:
            self._depth -= 1
