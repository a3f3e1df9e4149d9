"""Who waits to be asked in which statement, and whose turn it is to send: the bookkeeping of `_batch`.

Rules: nothing here blocks or awaits; a lock is held for the time of a few list operations. Whoever has the turn takes
what it sends, tells everybody their answers, and passes the turn on.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from spanledger.core.asking import Ask
from spanledger.errors import LedgerUnavailable, SpanledgerError
from spanledger.ledger._functions import Question, answer_of, together, translated
from spanledger.ledger._wire import Answer, AwaitingWire, BlockingWire

SENDERS_MAX = 1
# Fewer than there are connections, so that what hangs in one queue leaves some to the others.
HURRIED_MAX = 4
# A crowd goes in several statements: while the server works on one, the program goes on with the answers of another.
# Many answers at once would also hold up whatever else the loop does: sixteen of them take it some 1 ms.
ITEMS_MAX = 16
BYTES_MAX = 1024 * 1024
# What the server writes has no space around it; `loads` looks for some.
_read = json.JSONDecoder().raw_decode


@dataclass(slots=True, eq=False)
class Member:
    """One question, from when it is asked until it is answered.

    Attributes:
        ask: The question.
        text: Its item, as JSON.
        turn: Whoever asked it sends it.
        alone: It goes in no company: it was refused in it, or its function takes none.
        wanted: Nobody has interrupted whoever asked it.
        batch: The statement it is in; None while it waits to be in one.
        done: `value` or `error` is there.
        wake: Wakes whoever asked it; None where nobody sleeps.
    """

    ask: Ask
    text: str
    turn: bool = False
    alone: bool = False
    wanted: bool = True
    batch: Batch | None = None
    done: bool = False
    value: Any = None
    error: BaseException | None = None
    wake: Callable[[], object] | None = None

    def end(self, value: Any, error: BaseException | None) -> None:
        self.value, self.error, self.done, self.batch = value, error, True, None

    def rouse(self) -> None:
        wake, self.wake = self.wake, None
        if wake is not None:
            wake()

    def answer(self) -> Any:
        if self.error is not None:
            raise self.error
        return answer_of(self.ask, self.value)


def _subject(ask: Ask) -> Any:
    """What a question is about: a call by its key, a request by its id, or what it says itself."""
    return ask.item.get("key") or ask.item.get("id") or str(ask.item)


class Batch:
    """What goes in one statement.

    Attributes:
        members: The questions; the first is the sender's.
        wire: Where it is under way; None before.
    """

    __slots__ = ("_bytes", "_keys", "members", "wire")

    def __init__(self, sender: Member) -> None:
        self.members = [sender]
        self.wire: BlockingWire | AwaitingWire | None = None
        self._keys = {_subject(sender.ask)}
        self._bytes = len(sender.text)
        sender.batch = self

    def fill(self, members: list[Member]) -> list[Member]:
        """Take in who fits, and return the others. However many there are, no more are looked at than it takes."""
        left: list[Member] = []
        for looked_at, member in enumerate(members):
            if len(self.members) >= ITEMS_MAX:
                return left + members[looked_at:]
            if not self._takes(member):
                left.append(member)
        return left

    def _takes(self, member: Member) -> bool:
        key, size = _subject(member.ask), self._bytes + len(member.text)
        if member.turn or member.alone or self.members[0].alone:
            return False
        if key in self._keys or size > BYTES_MAX:
            return False
        self.members.append(member)
        self._keys.add(key)
        self._bytes = size
        member.batch = self
        return True

    def question(self) -> Question:
        ask = self.members[0].ask
        return together(ask.function, ask.tenant, [member.text for member in self.members])

    def wanted(self) -> bool:
        """Somebody still waits for the answer."""
        return any(member.wanted for member in self.members)

    def wanted_by_others(self) -> bool:
        """The sender has been interrupted; somebody else still waits for the answer."""
        self.members[0].wanted = False
        return self.wanted()


@dataclass(slots=True, eq=False)
class Queue:
    """What waits to be asked of one function for one tenant, and how many senders there are."""

    waiting: list[Member] = field(default_factory=list)
    senders: int = 0

    def heir(self) -> Member | None:
        """Whose turn is next."""
        return next((member for member in self.waiting if not member.turn), None)


class Queues:
    """All that waits in one process or one loop. Safe to use from many threads; in a loop the lock is always free.

    Attributes:
        company: How many asked in the last statement. They were answered together and will ask together again, so a
            sender lets the others come first.
    """

    def __init__(self) -> None:
        self.company = 1
        # Reentrant, because a signal's handler may settle calls while its thread holds it.
        self._lock = threading.RLock()
        self._queues: dict[tuple[str, str], Queue] = {}

    def join(self, member: Member) -> Queue:
        """Queue up; the turn is the member's where nobody sends."""
        address = (member.ask.function, member.ask.tenant)
        with self._lock:
            queue = self._queues.get(address)
            if queue is None:
                queue = self._queues[address] = Queue()
            queue.waiting.append(member)
            self._give_turn(queue, member, SENDERS_MAX)
            return queue

    def hurry(self, queue: Queue, member: Member) -> None:
        """Let a member that has waited too long behind another statement send itself."""
        with self._lock:
            if member in queue.waiting:
                self._give_turn(queue, member, HURRIED_MAX)

    def watch(self, queue: Queue) -> None:
        """Let whose turn is next watch how long the others take; it has been somebody else's until now."""
        with self._lock:
            heir = queue.heir() if queue.waiting else None
            if heir is not None:
                heir.rouse()

    def take(self, queue: Queue, sender: Member) -> Batch:
        """Take what the sender sends: its own question, and what fits with it."""
        with self._lock:
            batch = Batch(sender)
            queue.waiting.remove(sender)
            queue.waiting = batch.fill(queue.waiting)
            self.company = len(batch.members)
            return batch

    def tell(self, queue: Queue, batch: Batch, answer: Answer, *, refused: bool) -> list[Member]:
        """Give everybody its own answer, or put back who has to be asked for again.

        Returns:
            Who has an answer, to be roused.
        """
        with self._lock:
            again: list[Member] = []
            refused = refused and len(batch.members) > 1
            values, error = _values(answer, len(batch.members))
            for member, value in zip(batch.members, values, strict=True):
                member.batch = None
                # An interruption is the sender's alone.
                unasked = error is not None and answer.interrupted is not None and member.wanted and not member.turn
                if refused or unasked:
                    member.alone = refused
                    again.append(member)
                else:
                    member.end(value, error and _own(error))
            queue.waiting[:0] = again
            return [member for member in batch.members if member.done]

    def pass_on(self, queue: Queue, member: Member) -> bool:
        """Give the turn to the next one, before those who have an answer go on: the server waits for nobody.

        Returns:
            Somebody has it who waited for it.
        """
        with self._lock:
            if not member.turn:
                return False
            member.turn = False
            queue.senders -= 1
            heir = queue.heir() if queue.waiting else None
            if heir is not None:
                self._give_turn(queue, heir, SENDERS_MAX)
                if not heir.turn:
                    heir.rouse()  # to watch how long the others take
            elif not queue.waiting and not queue.senders:
                self._queues.pop((member.ask.function, member.ask.tenant), None)
            return heir is not None and heir is not member

    def leave(self, queue: Queue, member: Member) -> None:
        """Go, answered or not; the turn is the next one's."""
        with self._lock:
            if not member.done and member in queue.waiting:
                queue.waiting.remove(member)
            self.pass_on(queue, member)

    def _give_turn(self, queue: Queue, member: Member, senders_max: int) -> None:
        if queue.senders < senders_max and not member.turn:
            member.turn = True
            queue.senders += 1
            member.rouse()


def _values(answer: Answer, count: int) -> tuple[list[Any], Exception | None]:
    """Return the answer of each question, or the error of all."""
    if answer.error is not None or answer.result is None:
        return [None] * count, answer.error
    # As text: of bytes, `loads` would first find out how they are encoded.
    values, _ = _read((answer.result.get_value(0, 0) or b"[]").decode())
    if len(values) != count:
        return [None] * count, LedgerUnavailable(f"the ledger gave {len(values)} answers to {count} questions")
    return values, None


def _own(error: Exception) -> Exception:
    """Make an error that one caller may raise and write on, out of one that many were given."""
    if isinstance(error, psycopg.Error):
        own = translated(error)
        own.__cause__ = error
    elif isinstance(error, SpanledgerError):
        own = copy.copy(error)
        own.__cause__ = error.__cause__
    else:
        own = error
    return own
