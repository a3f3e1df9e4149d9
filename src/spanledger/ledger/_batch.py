"""Calls that are in flight together go to Postgres in one statement: group commit.

Rules: who finds nobody sending for the same function and tenant has the turn: it sends its own question and what has
gathered behind it, then passes the turn on to whoever has waited longest, and only then do those who have an answer go
on. So a lone call waits for nobody and changes no thread or task, nobody sends for others twice, and the server has
work while the program has. Threads and event loops have queues of their own.

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
import functools
import json
import threading
import time
from typing import Any

import psycopg

from spanledger.core.asking import Ask
from spanledger.ledger._pools import AwaitingPool, BlockingPool
from spanledger.ledger._queues import Batch, Member, Queue, Queues
from spanledger.ledger._wire import Answer, AwaitingWire

PATIENCE_S = 0.05
# An item is made by ourselves, for this, and goes round in no circle.
_written = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode
# What a sender that was interrupted before it had an answer has for the others.
_UNASKED = Answer(error=InterruptedError(), interrupted=InterruptedError())


class BlockingBatches:
    """The questions of the threads of one process.

    Args:
        pool: Lends a connection for one statement.
        timeout_s: How long a statement may take.
    """

    def __init__(self, pool: BlockingPool, *, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._queues = Queues()

    def ask(self, ask: Ask) -> Any:
        """Ask, perhaps together with others, and return the answer to this question."""
        member = Member(ask, _written(ask.item), alone=ask.function == "shadow")
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

    def _send(self, queue: Queue, sender: Member) -> None:
        if len(queue.waiting) < self._queues.company:
            self._let_others_come()
        batch = self._queues.take(queue, sender)
        self._queues.watch(queue)
        answer, refused = _UNASKED, False
        try:
            answer, refused = self._exchange(batch)
        finally:
            answered = self._queues.tell(queue, batch, answer, refused=refused)
            others_wait = self._queues.pass_on(queue, sender)
            for member in answered:
                member.rouse()
        if answer.interrupted is not None:
            raise answer.interrupted
        if others_wait:
            self._let_others_come()

    def _exchange(self, batch: Batch) -> tuple[Answer, bool]:
        try:
            batch.wire = wire = self._pool.borrow()
            try:
                answer = wire.ask(batch.question(), self._timeout_s)
                return answer, isinstance(answer.error, psycopg.Error) and wire.usable
            finally:
                self._pool.take_back(wire)
        except Exception as error:  # noqa: BLE001 - whoever asked raises it
            return Answer(error=error), False

    def _let_others_come(self) -> None:
        time.sleep(0)

    def _sleep(self, queue: Queue, member: Member) -> None:
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
        pool: Lends a connection for one statement.
        timeout_s: How long a statement may take.
    """

    def __init__(self, pool: AwaitingPool, *, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._queues = Queues()

    async def ask(self, ask: Ask) -> Any:
        """Ask, perhaps together with others, and return the answer to this question."""
        member = Member(ask, _written(ask.item), alone=ask.function == "shadow")
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

    async def _send(self, queue: Queue, sender: Member) -> None:
        if len(queue.waiting) < self._queues.company:
            await self._let_others_come()
        batch = self._queues.take(queue, sender)
        self._queues.watch(queue)
        answer, refused = _UNASKED, False
        try:
            answer, refused = await self._exchange(batch)
        finally:
            answered = self._queues.tell(queue, batch, answer, refused=refused)
            others_wait = self._queues.pass_on(queue, sender)
            for member in answered:
                member.rouse()
        if answer.interrupted is not None:
            raise answer.interrupted
        if others_wait:
            await self._let_others_come()

    async def _exchange(self, batch: Batch) -> tuple[Answer, bool]:
        try:
            batch.wire = wire = await self._pool.borrow()
            try:
                answer = await wire.ask(batch.question(), self._timeout_s, batch.wanted_by_others)
                return answer, isinstance(answer.error, psycopg.Error) and wire.usable
            finally:
                await self._pool.take_back(wire)
        except Exception as error:  # noqa: BLE001 - whoever asked raises it
            return Answer(error=error), False

    async def _let_others_come(self) -> None:
        await asyncio.sleep(0)

    async def _sleep(self, queue: Queue, member: Member) -> None:
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
            self._queues.leave(queue, member)
            self._queues.watch(queue)
            raise
        finally:
            if patience is not None:
                patience.cancel()


def _woken(member: Member) -> asyncio.Future[None]:
    awake = asyncio.get_running_loop().create_future()
    member.wake = functools.partial(_wake, awake)
    return awake


def _wake(awake: asyncio.Future[None]) -> None:
    if not awake.done():
        awake.set_result(None)
