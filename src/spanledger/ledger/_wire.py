"""One question and its answer over one connection, with as little in between as can be.

Rules: libpq is asked directly, because a cursor costs more than the server. A question has a deadline here, in the
client: a server that has frozen, or a peer that vanished behind a Unix socket, answers nothing, not even that it will
not. Who gives up takes the question back and waits a moment for the answer, so that nothing is claimed behind the back
of a caller who has gone. A wire that may still bring an answer is not `usable`, and is closed. A commit that the server
stopped waiting for (`synchronous_standby_names`) is no answer. `ask` raises nothing: what came of it, an interruption
of the caller included, is in the `Answer`. The two kinds of wire differ in how they wait; an event loop watches its
connections all the time, so that a wait costs one future.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, Self

import psycopg
from psycopg.adapt import Transformer
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

from spanledger.core.frozen import value
from spanledger.errors import LedgerUnavailable
from spanledger.ledger._functions import Question, no_answer

BACKEND = "select pg_backend_pid()"
CANCEL_TIMEOUT_S = 1.0
_ANSWERS = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)
# By its place in the server's source, because its text is in the server's language.
_UNREPLICATED = "SyncRepWaitForLSN"


@value
class Answer:
    """What became of a question.

    Attributes:
        result: What the server answered; None where there is an error.
        error: Why there is no answer.
        interrupted: What the caller was interrupted with while it waited; for the caller to raise.
    """

    result: PGresult | None = None
    error: Exception | None = None
    interrupted: BaseException | None = None

    def rows(self) -> list[tuple[Any, ...]]:
        """Return the rows, or raise what came instead."""
        if self.interrupted is not None:
            raise self.interrupted
        if self.error is not None:
            raise self.error
        if self.result is None:
            return []
        reader = Transformer()
        reader.set_pgresult(self.result)
        return reader.load_rows(0, self.result.ntuples, tuple)


class _Wire:
    """What both kinds have in common: what is said to libpq and heard from it."""

    def __init__(self, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], *, prepares: bool) -> None:
        self.idle_since_s = 0.0
        self._libpq = connection.pgconn
        self._prepares = prepares
        self._asked: set[bytes] = set()
        self._prepared: set[bytes] = set()
        self._gave_up = False
        self._result: PGresult | None = None
        self._doubts: list[str] = []
        connection.add_notice_handler(partial(_note_doubt, self._doubts))

    @property
    def usable(self) -> bool:
        """The next question can be asked: no answer is under way, and no transaction is open."""
        idle = self._libpq.transaction_status == TransactionStatus.IDLE
        return idle and self._libpq.status == ConnStatus.OK and not self._gave_up

    def _worth_preparing(self, question: Question) -> bool:
        """A statement that is asked for the second time will be asked again."""
        return self._prepares and question.name in self._asked and question.name not in self._prepared

    def _send(self, question: Question, *, prepare: bool) -> None:
        name = question.name
        self._doubts.clear()
        if prepare and name is not None:
            self._libpq.send_prepare(name, question.text)
            return
        values = [_written(value) for value in question.parameters]
        if name in self._prepared:
            self._libpq.send_query_prepared(name, values)
            return
        self._libpq.send_query_params(question.text, values)
        if name is not None:
            self._asked.add(name)

    def _heard(self) -> Answer | None:
        """Take in what has come; None while the answer is not complete."""
        try:
            self._libpq.consume_input()
            while not self._libpq.is_busy():
                result = self._libpq.get_result()
                if result is None:
                    return self._complete()
                self._result = result
        except psycopg.Error as error:
            return Answer(error=error)
        return None

    def _complete(self) -> Answer:
        result, self._result = self._result, None
        if result is None:
            return Answer(error=psycopg.OperationalError("the connection to the server is lost"))
        if result.status not in _ANSWERS:
            return Answer(error=psycopg.errors.error_from_result(result))
        if self._doubts:
            words = f"the ledger recorded it on one server only: {self._doubts[0]}"
            return Answer(error=LedgerUnavailable(words, asked=True))
        return Answer(result)


class BlockingWire(_Wire):
    """A wire of which one thread at a time may ask.

    Args:
        connection: Idle, in autocommit mode, and nobody else's.
        prepares: Statements may be prepared on it.
    """

    def __init__(self, connection: psycopg.Connection[Any], *, prepares: bool) -> None:
        super().__init__(connection, prepares=prepares)
        self.connection = connection
        self._poll = _reading(self._libpq.socket)

    def ask(self, question: Question, timeout_s: float) -> Answer:
        """Ask, and wait for the answer at most `timeout_s`."""
        if self._worth_preparing(question):
            answer = self._exchange(question, timeout_s, prepare=True)
            if answer.error or answer.interrupted or question.name is None:
                return answer
            self._prepared.add(question.name)
        return self._exchange(question, timeout_s, prepare=False)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _exchange(self, question: Question, timeout_s: float, *, prepare: bool) -> Answer:
        try:
            self._send(question, prepare=prepare)
            return self._wait(time.monotonic() + timeout_s) or self._given_up(Answer(error=no_answer(timeout_s)))
        except psycopg.Error as error:
            return Answer(error=error)
        except BaseException as interruption:  # noqa: BLE001 - the caller raises it
            return self._given_up(Answer(error=no_answer(timeout_s), interrupted=interruption))

    def _wait(self, deadline_s: float) -> Answer | None:
        while True:
            unsent = bool(self._libpq.flush())
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not self._ready(left_s, writing=unsent):
                return None
            answer = self._heard()
            if answer is not None:
                return answer

    def _ready(self, timeout_s: float, *, writing: bool) -> bool:
        """Wait until something has come, or, if `writing`, can be sent."""
        if self._poll is not None and not writing:
            return bool(self._poll.poll(timeout_s * 1e3))
        socket = self._libpq.socket
        if self._poll is None:
            return any(select.select([socket], [socket] if writing else [], [], timeout_s))
        self._poll.modify(socket, select.POLLIN | select.POLLOUT)
        ready = self._poll.poll(timeout_s * 1e3)
        self._poll.modify(socket, select.POLLIN)
        return bool(ready)

    def _given_up(self, answer: Answer) -> Answer:
        self._gave_up = True
        with contextlib.suppress(psycopg.Error):
            self.connection.cancel_safe(timeout=CANCEL_TIMEOUT_S)
            self._wait(time.monotonic() + CANCEL_TIMEOUT_S)
        return answer


class AwaitingWire(_Wire):
    """A wire of which one task at a time may ask, in the loop in which it was made.

    Args:
        connection: Idle, in autocommit mode, and nobody else's.
        prepares: Statements may be prepared on it.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], *, prepares: bool) -> None:
        super().__init__(connection, prepares=prepares)
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._answer: Answer | None = Answer()
        self._woken: asyncio.Future[None] | None = None
        self._taking_back: asyncio.Task[None] | None = None
        self._late_s = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._socket = self._libpq.socket
        self._loop.add_reader(self._socket, self._readable)

    def ask(self, question: Question, timeout_s: float, wanted: Callable[[], bool] = bool) -> Awaitable[Answer]:
        """Ask, and wait for the answer at most `timeout_s`.

        Args:
            question: What to ask.
            timeout_s: How long to wait.
            wanted: Tells, where the caller is cancelled, whether somebody else still wants the answer.
        """
        if self._worth_preparing(question):
            return self._prepare_and_ask(question, timeout_s, wanted)
        return self._exchange(question, timeout_s, wanted)

    @classmethod
    async def connected(cls, conninfo: str) -> Self:
        """Open a connection; where the caller is cancelled meanwhile, none stays open."""
        connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        try:
            backend = await (await connection.execute(BACKEND)).fetchone()
        except BaseException:
            await connection.close()
            raise
        return cls(connection, prepares=backend == (connection.info.backend_pid,))

    async def close(self) -> None:
        """Close the connection."""
        self._unwatch()
        if self._alarm is not None:
            self._alarm.cancel()
        await self._connection.close()

    async def _prepare_and_ask(self, question: Question, timeout_s: float, wanted: Callable[[], bool]) -> Answer:
        answer = await self._exchange(question, timeout_s, wanted, prepare=True)
        if answer.error or answer.interrupted or question.name is None:
            return answer
        self._prepared.add(question.name)
        return await self._exchange(question, timeout_s, wanted)

    async def _exchange(
        self, question: Question, timeout_s: float, wanted: Callable[[], bool], *, prepare: bool = False
    ) -> Answer:
        """Wait to the end, cancelled or not."""
        self._answer, interrupted = None, None
        self._set_alarm(timeout_s)
        try:
            self._send(question, prepare=prepare)
            self._flush()
        except psycopg.Error as error:
            self._answer = Answer(error=error)
            return self._answer
        while self._answer is None:
            self._woken = self._loop.create_future()
            try:
                await self._woken
            except asyncio.CancelledError as cancellation:
                interrupted = cancellation
                if not wanted():
                    self.give_up()
        # What comes after it was given up is no answer, even where it is one.
        answer = Answer(error=no_answer(timeout_s)) if self._gave_up or self._answer is None else self._answer
        return answer if interrupted is None else replace(answer, interrupted=interrupted)

    def _set_alarm(self, timeout_s: float) -> None:
        """Give up after so long. The alarm goes on from question to question: one for each would cost too much."""
        self._late_s = self._loop.time() + timeout_s
        if self._alarm is None or self._alarm.when() > self._late_s:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = self._loop.call_at(self._late_s, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        if self._answer is not None:
            return
        if self._loop.time() < self._late_s:
            self._alarm = self._loop.call_at(self._late_s, self._ring)
        else:
            self.give_up()

    def give_up(self) -> None:
        """Take the question back; who waits for the answer will have none."""
        if self._answer is None and not self._gave_up:
            self._gave_up = True
            self._taking_back = self._loop.create_task(self._take_back())

    async def _take_back(self) -> None:
        try:
            with contextlib.suppress(psycopg.Error):
                await self._connection.cancel_safe(timeout=CANCEL_TIMEOUT_S)
        finally:
            self._loop.call_later(CANCEL_TIMEOUT_S, self._conclude, Answer())

    def _readable(self) -> None:
        answer = self._heard()
        if self._libpq.status != ConnStatus.OK:
            # Its socket is closed; the next one opened may get the same number.
            self._unwatch()
        if answer is not None:
            self._conclude(answer)

    def _flush(self) -> None:
        if self._libpq.flush():
            self._loop.add_writer(self._socket, self._writable)

    def _writable(self) -> None:
        self._loop.remove_writer(self._socket)
        # What breaks a connection is read from it, also where it shows first when something is written.
        with contextlib.suppress(psycopg.Error):
            self._flush()

    def _conclude(self, answer: Answer) -> None:
        if self._answer is None:
            self._answer = answer
            if self._woken is not None and not self._woken.done():
                self._woken.set_result(None)

    def _unwatch(self) -> None:
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)


def _written(value: object) -> bytes | None:
    if value is None:
        return None
    try:
        text = str(value).encode()
    except UnicodeEncodeError:
        raise psycopg.DataError("a text of Postgres cannot hold half of a surrogate pair") from None
    if b"\0" in text:
        raise psycopg.DataError("a text of Postgres cannot hold a NUL")
    return text


def _note_doubt(doubts: list[str], notice: psycopg.errors.Diagnostic) -> None:
    if notice.source_function == _UNREPLICATED:
        doubts.append(str(notice.message_primary))


def _reading(socket: int) -> select.poll | None:
    """Watch a socket for what comes; None where only `select.select` can."""
    if not hasattr(select, "poll"):
        return None
    watched = select.poll()
    watched.register(socket, select.POLLIN)
    return watched
