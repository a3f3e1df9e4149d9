"""Calls that are in flight together go to Postgres in one statement: group commit.

Rules: who finds nobody sending for the same function and tenant has the turn: it sends its own question and what has
gathered behind it, then passes the turn on to whoever has waited longest. So a lone call waits for nobody and changes
no thread or task, and nobody sends for others twice. Threads and event loops have queues of their own.

* Every question gets the answer that it would have got alone. If the ledger refuses a statement for what is in it, each
  of its questions is asked again alone, so that the one that is at fault fails alone. If there is no answer, each
  learns it, and its driver asks again.
* The same key is never twice in one statement; the second waits for the next one.
* A sender that is interrupted sees its statement through, for the others. If nobody is left who wants the answer, the
  question is taken back. A question under way is waited for by whoever asked it, even if it is interrupted: whatever
  is then said of the same call comes after it.
* A statement that hangs, because a call in it is locked, holds up those behind it for `PATIENCE_S`; then they are sent
  beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import json
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
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
ITEMS_MAX = 64
BYTES_MAX = 1024 * 1024
PATIENCE_S = 0.05
# What a sender that was interrupted before it had an answer has for the others.
_UNASKED = Answer(error=InterruptedError(), interrupted=InterruptedError())


@dataclass(slots=True, eq=False)
class _Member:
    """One question, from when it is asked until it is answered.

    Attributes:
        ask: The question.
        text: Its item, as JSON.
        since_s: When it came.
        turn: Whoever asked it sends it.
        alone: It was refused in company.
        wanted: Nobody has interrupted whoever asked it.
        batch: The statement it is in; None while it waits to be in one.
        done: `value` or `error` is there.
        wake: Wakes whoever asked it; None where nobody sleeps.
    """

    ask: Ask
    text: str
    since_s: float = field(default_factory=time.monotonic)
    turn: bool = False
    alone: bool = False
    wanted: bool = True
    batch: _Batch | None = None
    done: bool = False
    value: Any = None
    error: BaseException | None = None
    wake: Callable[[], object] | None = None

    def end(self, value: Any, error: BaseException | None) -> None:
        self.value, self.error, self.done, self.batch = value, error, True, None
        self.rouse()

    def rouse(self) -> None:
        wake, self.wake = self.wake, None
        if wake is not None:
            wake()

    def answer(self) -> Any:
        if self.error is not None:
            raise self.error
        return answer_of(self.ask, self.value)


def _subject(ask: Ask) -> Any:
    """What a question is about: a call by its key, or a request for consent by its id."""
    return ask.item["key"] if "key" in ask.item else ask.item["id"]


class _Batch:
    """What goes in one statement.

    Attributes:
        members: The questions; the first is the sender's.
        wire: Where it is under way; None before.
    """

    __slots__ = ("_bytes", "_keys", "members", "wire")

    def __init__(self, sender: _Member) -> None:
        self.members = [sender]
        self.wire: BlockingWire | AwaitingWire | None = None
        self._keys = {_subject(sender.ask)}
        self._bytes = len(sender.text)
        sender.batch = self

    def takes(self, member: _Member) -> bool:
        """Take another question in, if it fits."""
        key, size = _subject(member.ask), self._bytes + len(member.text)
        if member.turn or member.alone or self.members[0].alone:
            return False
        if key in self._keys or size > BYTES_MAX or len(self.members) >= ITEMS_MAX:
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
class _Queue:
    """What waits to be asked of one function for one tenant, and how many senders there are."""

    waiting: list[_Member] = field(default_factory=list)
    senders: int = 0

    def heir(self) -> _Member | None:
        """Whose turn is next."""
        return next((member for member in self.waiting if not member.turn), None)


class _Queues:
    """All that waits in one process or one loop. Safe to use from many threads; in a loop the lock is always free.

    Attributes:
        company: The last statement was asked by many. They were answered together and will ask together again, so a
            sender lets the others come first.
    """

    def __init__(self) -> None:
        self.company = False
        # Reentrant, because a signal's handler may settle calls while its thread holds it.
        self._lock = threading.RLock()
        self._queues: dict[tuple[str, str], _Queue] = {}

    def join(self, member: _Member) -> _Queue:
        """Queue up; the turn is the member's where nobody sends."""
        address = (member.ask.function, member.ask.tenant)
        with self._lock:
            queue = self._queues.get(address)
            if queue is None:
                queue = self._queues[address] = _Queue()
            queue.waiting.append(member)
            self._give_turn(queue, member, SENDERS_MAX)
            return queue

    def hurry(self, queue: _Queue, member: _Member) -> None:
        """Let a member that has waited too long behind another statement send itself."""
        with self._lock:
            if member in queue.waiting:
                self._give_turn(queue, member, HURRIED_MAX)

    def take(self, queue: _Queue, sender: _Member) -> _Batch:
        """Take what the sender sends: its own question, and what fits with it."""
        with self._lock:
            batch = _Batch(sender)
            queue.waiting = [m for m in queue.waiting if m is not sender and not batch.takes(m)]
            self.company = len(batch.members) > 1
            return batch

    def tell(self, queue: _Queue, batch: _Batch, answer: Answer, *, refused: bool) -> None:
        """Give everybody its own answer, or put back who has to be asked for again."""
        with self._lock:
            again: list[_Member] = []
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

    def leave(self, queue: _Queue, member: _Member) -> None:
        """Go, answered or not; the turn is the next one's."""
        with self._lock:
            if not member.done and member in queue.waiting:
                queue.waiting.remove(member)
            if not member.turn:
                return
            queue.senders -= 1
            heir = queue.heir()
            if heir is not None:
                self._give_turn(queue, heir, SENDERS_MAX)
            elif not queue.waiting and not queue.senders:
                self._queues.pop((member.ask.function, member.ask.tenant), None)

    def _give_turn(self, queue: _Queue, member: _Member, senders_max: int) -> None:
        if queue.senders < senders_max and not member.turn:
            member.turn = True
            queue.senders += 1
            member.rouse()


class BlockingBatches:
    """The questions of the threads of one process.

    Args:
        lend: Lends a connection for one statement.
        timeout_s: How long a statement may take.
    """

    def __init__(self, lend: Callable[[], AbstractContextManager[BlockingWire]], *, timeout_s: float) -> None:
        self._lend = lend
        self._timeout_s = timeout_s
        self._queues = _Queues()

    def ask(self, ask: Ask) -> Any:
        """Ask, perhaps together with others, and return the answer to this question."""
        member = _Member(ask, json.dumps(ask.item))
        queue = self._queues.join(member)
        try:
            while not member.done:
                if member.turn:
                    self._send(queue, member)
                else:
                    self._sleep(queue, member)
        finally:
            self._queues.leave(queue, member)
        return member.answer()

    def _send(self, queue: _Queue, sender: _Member) -> None:
        if self._queues.company:
            self._let_others_come()
        batch = self._queues.take(queue, sender)
        answer, refused = _UNASKED, False
        try:
            answer, refused = self._exchange(batch)
        finally:
            self._queues.tell(queue, batch, answer, refused=refused)
        if answer.interrupted is not None:
            raise answer.interrupted

    def _exchange(self, batch: _Batch) -> tuple[Answer, bool]:
        try:
            with self._lend() as wire:
                batch.wire = wire
                answer = wire.ask(batch.question(), self._timeout_s)
                return answer, isinstance(answer.error, psycopg.Error) and wire.usable
        except Exception as error:  # noqa: BLE001 - whoever asked raises it
            return Answer(error=error), False

    def _let_others_come(self) -> None:
        time.sleep(0)

    def _sleep(self, queue: _Queue, member: _Member) -> None:
        awake = threading.Lock()
        awake.acquire()
        member.wake = awake.release
        if member.done or member.turn:
            return
        try:
            if not awake.acquire(timeout=PATIENCE_S):
                self._queues.hurry(queue, member)
        except BaseException:
            if member.batch is not None:
                awake.acquire(timeout=self._timeout_s)
            raise


class AwaitingBatches:
    """The questions of the tasks of one event loop.

    Args:
        lend: Lends a connection for one statement.
        timeout_s: How long a statement may take.
    """

    def __init__(self, lend: Callable[[], AbstractAsyncContextManager[AwaitingWire]], *, timeout_s: float) -> None:
        self._lend = lend
        self._timeout_s = timeout_s
        self._queues = _Queues()

    async def ask(self, ask: Ask) -> Any:
        """Ask, perhaps together with others, and return the answer to this question."""
        member = _Member(ask, json.dumps(ask.item))
        queue = self._queues.join(member)
        try:
            while not member.done:
                if member.turn:
                    await self._send(queue, member)
                else:
                    await self._sleep(queue, member)
        finally:
            self._queues.leave(queue, member)
        return member.answer()

    async def _send(self, queue: _Queue, sender: _Member) -> None:
        if self._queues.company:
            await self._let_others_come()
        batch = self._queues.take(queue, sender)
        answer, refused = _UNASKED, False
        try:
            answer, refused = await self._exchange(batch)
        finally:
            self._queues.tell(queue, batch, answer, refused=refused)
        if answer.interrupted is not None:
            raise answer.interrupted

    async def _exchange(self, batch: _Batch) -> tuple[Answer, bool]:
        try:
            async with self._lend() as wire:
                batch.wire = wire
                answer = await wire.ask(batch.question(), self._timeout_s, batch.wanted_by_others)
                return answer, isinstance(answer.error, psycopg.Error) and wire.usable
        except Exception as error:  # noqa: BLE001 - whoever asked raises it
            return Answer(error=error), False

    async def _let_others_come(self) -> None:
        await asyncio.sleep(0)

    async def _sleep(self, queue: _Queue, member: _Member) -> None:
        loop, patience = asyncio.get_running_loop(), None
        if queue.heir() is member:
            patience = loop.call_later(PATIENCE_S, self._queues.hurry, queue, member)
        try:
            await _woken(member)
        except asyncio.CancelledError:
            member.wanted = False
            while member.batch is not None:
                if isinstance(member.batch.wire, AwaitingWire) and not member.batch.wanted():
                    member.batch.wire.give_up()
                with contextlib.suppress(asyncio.CancelledError):
                    await _woken(member)
            raise
        finally:
            if patience is not None:
                patience.cancel()


def _woken(member: _Member) -> asyncio.Future[None]:
    awake = asyncio.get_running_loop().create_future()
    member.wake = functools.partial(_wake, awake)
    return awake


def _wake(awake: asyncio.Future[None]) -> None:
    if not awake.done():
        awake.set_result(None)


def _values(answer: Answer, count: int) -> tuple[list[Any], Exception | None]:
    """Return the answer of each question, or the error of all."""
    if answer.error is not None or answer.result is None:
        return [None] * count, answer.error
    values = json.loads(answer.result.get_value(0, 0) or b"[]")
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
