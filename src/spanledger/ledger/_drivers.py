"""Carry out steps: one class blocks, one awaits, and one does it later.

Rules: the first two differ in `await` and in how they sleep and shield, nothing else (a test compares them). An ask
whose answer was lost on the way, or that met functions as they were replaced, is asked once more; every function of the
ledger allows that. An ask that is shielded is carried out even if the caller is cancelled meanwhile. An outcome that is
queued, or waits on disk, is told before the same call begins again. What the wrapped function does, exceptions
included, is an `Ended` and never crosses the generator as an exception.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg

from spanledger.core.asking import Ask, Invoke, Keep, Listen, Look, Steps, Wait
from spanledger.core.call import Begun, Ended, Outcome
from spanledger.errors import ConfigError, LedgerUnavailable
from spanledger.ledger._database import Database
from spanledger.ledger._functions import Query, asked_before, translated, undecided
from spanledger.ledger._watchman import Waiter

T = TypeVar("T")


class BlockingDriver:
    """Carries out steps in the calling thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def drive(self, steps: Steps[T], invoke: Callable[[Begun], Ended] | None = None) -> T:
        """Run `steps` to their end and return what they return."""
        reply: Any = None
        error: BaseException | None = None
        waiters: list[Waiter] = []
        try:
            while True:
                try:
                    step = steps.send(reply) if error is None else steps.throw(error)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
                reply, error = None, None
                try:
                    reply = self._carry_out(step, invoke, waiters)
                except BaseException as raised:  # noqa: BLE001 - the generator decides, and raises it again
                    error = raised
        finally:
            # An error that was got over holds this frame, and with it those of its callers, until a collection.
            del reply, error
            for waiter in waiters:
                waiter.leave()

    def _carry_out(self, step: Any, invoke: Callable[[Begun], Ended] | None, waiters: list[Waiter]) -> Any:
        match step:
            case Ask():
                return self.query(step)
            case Invoke():
                return invoke(step.begun) if invoke else None
            case Listen():
                waiters.append(waiter := self._database.wakeups.waiting(step.tenant, step.key))
                return waiter.enter()
            case Wait():
                return step.waiter.wait(step.wait_s, step.left_s)
            case Look():
                return _blocking_value(step.probe())
            case Keep():
                return self._database.keep(step)
            case _:
                raise TypeError(f"{step!r} is no step")

    def query(self, query: Query) -> Any:
        """Ask the ledger, once more where it has not decided or its answer was lost.

        Raises:
            LedgerUnavailable: It does not answer.
            ConfigError: Its schema is missing, too old or too new.
        """
        since_s = self._database.silence.heed()
        self._database.heartbeat.before(query)
        try:
            reply = self._query(query)
        except (LedgerUnavailable, ConfigError) as error:
            if not undecided(error):
                if isinstance(error, LedgerUnavailable):
                    self._database.silence.note(since_s)
                raise
            self._database.forget_connections()
            with asked_before():
                reply = self._query(query)
        self._database.heartbeat.after(query, reply)
        return reply

    def _query(self, query: Query) -> Any:
        try:
            if isinstance(query, Ask) and query.begins:
                self._database.deliver(query)
            return self._database.reply(query)
        except psycopg.Error as error:
            raise translated(error) from error


class AwaitingDriver:
    """Carries out steps in the running event loop, which it never blocks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def drive(self, steps: Steps[T], invoke: Callable[[Begun], Awaitable[Ended]] | None = None) -> T:
        """Run `steps` to their end and return what they return."""
        reply: Any = None
        error: BaseException | None = None
        waiters: list[Waiter] = []
        try:
            while True:
                try:
                    step = steps.send(reply) if error is None else steps.throw(error)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
                reply, error = None, None
                try:
                    reply = await self._carry_out(step, invoke, waiters)
                except BaseException as raised:  # noqa: BLE001 - the generator decides, and raises it again
                    error = raised
        finally:
            # An error that was got over holds this frame, and with it those of its callers, until a collection.
            del reply, error
            for waiter in waiters:
                waiter.leave()

    async def _carry_out(
        self, step: Any, invoke: Callable[[Begun], Awaitable[Ended]] | None, waiters: list[Waiter]
    ) -> Any:
        match step:
            case Ask(shielded=False):
                return await self.query(step)
            case Ask():
                return await _seen_through(lambda: self.query(step))
            case Invoke():
                return await invoke(step.begun) if invoke else None
            case Listen():
                waiters.append(waiter := self._database.wakeups.waiting_awaiting(step.tenant, step.key))
                return await waiter.enter()
            case Wait():
                return await step.waiter.wait(step.wait_s, step.left_s)
            case Look():
                return await _awaited_value(step.probe)
            case Keep():
                return await _shielded(asyncio.to_thread(self._database.keep, step))
            case _:
                raise TypeError(f"{step!r} is no step")

    async def query(self, query: Query) -> Any:
        """Ask the ledger, once more where it has not decided or its answer was lost.

        Raises:
            LedgerUnavailable: It does not answer.
            ConfigError: Its schema is missing, too old or too new.
        """
        since_s = self._database.silence.heed()
        self._database.heartbeat.before(query)
        try:
            reply = await self._query(query)
        except (LedgerUnavailable, ConfigError) as error:
            if not undecided(error):
                if isinstance(error, LedgerUnavailable):
                    self._database.silence.note(since_s)
                raise
            await self._database.forget_loop_connections()
            with asked_before():
                reply = await self._query(query)
        self._database.heartbeat.after(query, reply)
        return reply

    async def _query(self, query: Query) -> Any:
        try:
            if isinstance(query, Ask) and query.begins:
                await self._database.deliver_awaiting(query)
            return await self._database.reply_awaiting(query)
        except psycopg.Error as error:
            raise translated(error) from error


class LaterDriver:
    """Carries out the last steps of calls whose caller must not be blocked, soon and in another thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._blocking = BlockingDriver(database)

    def drive(self, begun: Begun, steps: Steps[Outcome]) -> None:
        """Run the last steps of a call to their end, soon; nothing is raised."""
        self._database.later.add(begun, steps, self._blocking.drive)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was given so far is carried out; False where it is not after so long."""
        return self._database.later.flush(timeout_s)


_background: set[asyncio.Future[Any]] = set()


async def _seen_through(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask, even if the caller is cancelled meanwhile: then once more, where a cancellation does not reach.

    Hardly any caller is cancelled, and a task for every question would cost more than all else that the driver does.
    """
    try:
        return await ask()
    except asyncio.CancelledError:
        # A loop that is being shut down would cut off what is left in the background.
        await asyncio.wait([_in_background(ask())])
        raise


async def _shielded(work: Awaitable[Any]) -> Any:
    """Await `work`, even if the caller is cancelled meanwhile; cancelled again, it goes on in the background."""
    task = _in_background(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _in_background(work: Awaitable[Any]) -> asyncio.Future[Any]:
    task = asyncio.ensure_future(work)
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task


def _blocking_value(value: Any) -> Any:
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise ConfigError(
            "a probe or hook that is a coroutine function needs an asynchronous caller; make it a plain function"
        )
    return value


async def _awaited_value(probe: Callable[[], Any]) -> Any:
    # A plain probe asks the outside world and would block the loop.
    value = await asyncio.to_thread(probe)
    return await value if inspect.isawaitable(value) else value
